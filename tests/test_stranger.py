"""A stranger with the site alone: what "Start in five minutes" says, line by line, in an empty folder.

Every command of the page's shell blocks runs, in its order, as it is but for ``SHORTER``: a training of one epoch, and
a quick suite on few images. After them come those of the other pages that need nothing but the digits and the
stranger's first run, ``QUICK``. The rest is read by the command line's parser, in ``test_docs.py``. The installation is
what ``tests/packaging`` tests. The hub is a stand-in on this machine.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import headstart
from tests.runs.hub_server import TOKEN, Hub, serving
from tests.runs.test_hub import session
from tests.test_docs import COMMANDS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

DOCS = Path(headstart.__file__).parents[2] / "docs"
START, OTHERS = ((DOCS / name).read_text() for name in ("start.md", "others.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
QUICK = re.compile(
    r"train digits/(?!half-noise)(?!.*(?:runs/|--devices)).*|evaluate --replay runs/sdi/\S+|sweep runs/sdi .*"
)
SHORTER = {
    r"^(train .*--out .*)": r"\1 --epochs 1 --device cpu",
    r"^(train (?!.*--out).*)": r"\1 --max_steps 2 --device cpu",
    r"^(sweep .*)--n 500": r"\1--suite fgsm --n 20 --device cpu",
    r"--suite standard --n 200": "--suite light --n 20 --device cpu",
    r"--suite light$": "--suite light --n 20 --device cpu",
    r"OWNER/NAME": "me/net",
}


def blocks(page: str, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(page) if found == language]


def commands(page: str) -> list[str]:
    """The ``headstart`` command lines of a page's shell blocks."""
    lines = "".join(blocks(page, "sh")).splitlines()
    return [line.removeprefix("headstart ") for line in lines if line.startswith("headstart ")]


def shortened(command: str) -> str:
    command = command.split(" #")[0].strip()
    for long, short in SHORTER.items():
        command = re.sub(long, short, command)
    return command


@pytest.fixture(scope="module")
def sitting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hub, dict[str, tuple[int, str, str]]]:
    """The folder afterwards, the hub, and exit code, stdout and stderr of every command."""
    folder = tmp_path_factory.mktemp("stranger")
    others = {shortened(line): None for _, line in COMMANDS if QUICK.match(line)}
    # Each of the others' trainings in a folder of its own: without --out, two of one recipe would meet.
    more = [f"{line} --out runs/{i}" if line.startswith("train") else line for i, line in enumerate(others)]
    lines = [*map(shortened, commands(START)), *more]
    with serving() as hub:
        results = session(folder, hub.address, *((TOKEN, line) for line in lines))
    return folder, hub, dict(zip(lines, results, strict=True))


def test_every_command_of_the_page_works(sitting: tuple[Path, Hub, dict[str, tuple[int, str, str]]]) -> None:
    _, _, results = sitting
    assert {line: err for line, (code, _, err) in results.items() if code} == {}
    said = [line.split()[0] for line in results]
    sitting_down = ["train", "train", "evaluate", "evaluate", "compare", "report", "export", "push", "pull", "evaluate"]
    assert said[: len(sitting_down)] == sitting_down
    assert set(said[len(sitting_down) :]) == {"train", "evaluate", "sweep"}
    assert len(said) >= len(sitting_down) + 6


def test_what_the_stranger_has_in_the_end(sitting: tuple[Path, Hub, dict[str, tuple[int, str, str]]]) -> None:
    folder, hub, results = sitting
    own = json.loads((folder / "runs/sdi/evaluation.json").read_text())
    theirs = json.loads((folder / "runs/theirs/evaluation.json").read_text())
    assert (theirs["clean"], theirs["attacks"]) == (own["clean"], own["attacks"]), (
        "what was published is what was trained"
    )
    assert hub.files("me/net").keys() >= {"model.safetensors", "config.yaml", "evaluation.json", "README.md"}
    assert (folder / "runs/sdi/sdi.onnx").stat().st_size > 1000
    page = (folder / "report.html").read_text()
    assert "fgsm-sdi" in page
    assert "fgsm" in page
    (compared,) = (out for line, (_, out, _) in results.items() if line.startswith("compare"))
    assert "McNemar" in compared
    assert "20 images" in compared


def test_the_pages_python_is_the_readmes() -> None:
    """Which tests/test_docs.py runs."""
    assert blocks(START, "python") == blocks((DOCS.parent / "README.md").read_text(), "python")[:1]


def test_somebody_elses_model_in_memory(
    sitting: tuple[Path, Hub, dict[str, tuple[int, str, str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of others.md, with the stranger's network for the model."""
    (code,) = blocks(OTHERS, "python")
    code = code.replace('suite="quick", n=100', 'suite="light", n=20, progress=False, device="cpu"')
    exec(code, {"model": headstart.load_classifier(sitting[0] / "runs" / "sdi").network})
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"clean \d+\.\d%, robust \d+\.\d%", said[0])
    assert len(said) > 1, "its warnings are printed: on 20 images there is one at least"
