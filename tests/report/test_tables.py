"""Tables as they are sorted, and as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from typing import Any
from urllib.parse import unquote

import pytest

from headstart.report import run_page
from headstart.report.numbers import Spread
from headstart.report.tables import Cell, Column, Row, Table, accuracy, figure, mean, words


@pytest.fixture
def table() -> Table:
    columns = [
        Column("run", text=True),
        Column("robust", "accuracy, %"),
        Column("clean", "accuracy, %"),
        Column("cost"),
    ]
    rows = [
        Row([words('a_1, "50%"'), accuracy(Spread(0.5, 0.01, (0.4, 0.6)), best=True), accuracy(None), figure(1234.56)]),
        Row(
            [words("b"), accuracy(Spread(0.25, None)), accuracy(Spread(1.0, None)), mean(Spread(2, 0.5))], "below & so"
        ),
    ]
    return Table("name", "Title", columns, rows)


def test_the_csv_has_every_number_in_a_column_of_its_own(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(table.csv)))
    first, second = rows
    assert first == {
        "run": 'a_1, "50%"',
        "accuracy, %: robust": "50",
        "accuracy, %: robust, standard deviation": "1",
        "accuracy, %: robust, 95% interval from": "40",
        "accuracy, %: robust, 95% interval to": "60",
        "accuracy, %: clean": "",
        "cost": "1234.56",
        "cost, standard deviation": "",
        "note": "",
    }
    assert (second["accuracy, %: clean"], second["cost, standard deviation"], second["note"]) == (
        "100",
        "0.5",
        "below & so",
    )


def test_the_latex_is_a_table_of_booktabs(table: Table) -> None:
    assert (
        table.latex
        == r"""\begin{tabular}{lrrr}
\toprule
 & \multicolumn{2}{c}{accuracy, \%} &  \\
\cmidrule(lr){2-3}
run & robust & clean & cost \\
\midrule
a\_1, "50\%" & \textbf{50.0} $\pm$ 1.0 {\scriptsize [40.0, 60.0]} & -- & 1,235 \\
b & 25.0 & 100.0 & 2.0 $\pm$ 0.5 \\
\multicolumn{4}{l}{\footnotesize below \& so} \\
\bottomrule
\end{tabular}
"""
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{\\x^2~$}", r"\{\textbackslash{}x\textasciicircum{}2\textasciitilde{}\$\}"),
        ("ε ± 1 — #", r"$\varepsilon$ $\pm$ 1 -- \#"),
    ],
)
def test_signs_of_latex_are_escaped(text: str, said: str) -> None:
    assert f"{said} \\\\" in Table("t", "t", [Column("x", text=True)], [Row([words(text)])]).latex


def test_every_table_of_a_page_sorts_by_every_column_from_the_keyboard(run_of: Any, parsed: Any) -> None:
    page = run_page([run_of("a"), run_of("b", "fgsm-sdi")])
    tags = parsed(page).tags
    heads = [a for tag, a in tags if tag == "th" and "aria-sort" in a]
    assert {a["aria-sort"] for a in heads} == {"none"}
    buttons = re.findall(r'<th[^>]*data-column="(\d+)"[^>]*aria-sort="none"[^>]*><button type="button">', page)
    assert len(buttons) == len(heads)
    cells = [a for tag, a in tags if tag in ("td", "th") and "data-value" in a]
    first_row = cells[: len(buttons) // 2]
    assert first_row[0]["data-value"] == "a"
    assert float(first_row[3]["data-value"]) == pytest.approx(44.0)


def test_every_table_of_a_page_is_there_as_csv_and_as_latex(run_of: Any, parsed: Any) -> None:
    seen = parsed(run_page([run_of("a"), run_of("b", "fgsm-sdi")]))
    files = {a["download"]: unquote(a["href"].partition(",")[2]) for tag, a in seen.tags if "download" in a}
    assert list(files) == ["robustness.csv", "sweep-1.csv", "runs.csv"]
    (a, b) = csv.DictReader(io.StringIO(files["robustness.csv"]))
    assert (a["runs"], a["accuracy, %: robust"], b["accuracy, %: robust, 95% interval from"]) == ("a", "44", "40.9522")
    assert len(seen.latex) == 3
    assert all(text.startswith(r"\begin{tabular}") and r"\midrule" in text for text in seen.latex)


def test_a_cell_without_a_value_sorts_last(run_of: Any) -> None:
    assert words("").value is None
    assert words(None).text == "—"
    assert figure(None) == Cell("—")
    page = run_page([run_of("a", robust=None)])
    assert 'data-value=""' in page
