import xml.etree.ElementTree as ElementTree
from pathlib import Path

from headstart.report import drawing


def test_a_figure_takes_ink_and_width_from_its_page_and_files_stand_alone(tmp_path: Path) -> None:
    figure, axes = drawing.new(4, 2)
    axes.plot([0, 1], [1, 2])
    axes.set_title("robust accuracy")

    text = drawing.svg(figure)
    root = ElementTree.fromstring(text)
    assert root.get("viewBox") == "0 0 288 144"
    assert root.get("width") is None
    assert "currentColor" in text
    assert "robust accuracy" in text

    vector, pdf = drawing.save(figure, tmp_path / "curves-8.255")
    assert [vector.name, pdf.name] == ["curves-8.255.svg", "curves-8.255.pdf"]
    assert "currentColor" not in vector.read_text()
    assert pdf.read_bytes().startswith(b"%PDF")
