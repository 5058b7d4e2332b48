"""Tables as a page shows them, sortable, and as CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from headstart.report.numbers import MISSING, Spread, number, percent

_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "ε": r"$\varepsilon$", "—": "--", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column: its title, the title that it shares with its neighbours, and its looks."""

    title: str
    group: str = ""
    text: bool = False
    headline: bool = False


@dataclass(frozen=True)
class Cell:
    """What is read in a cell, and the value that it is sorted by and has in the CSV, None where it has none.

    Attributes:
        deviation, interval: of an accuracy in per cent or of a mean, where known; shown beside and below the value.
        best: no other value of the column is higher, as far as can be told.
        colour: of the dot before a name.
        alarming: what nobody wants to see.
        link: to a part of the page, by its name.
    """

    text: str
    value: float | str | None = None
    deviation: float | None = None
    interval: tuple[float, float] | None = None
    best: bool = False
    colour: str = ""
    alarming: bool = False
    link: str = ""

    @property
    def below(self) -> str:
        """The interval in words."""
        return "" if self.interval is None else f"{self.interval[0]:.1f} to {self.interval[1]:.1f}"


@dataclass(frozen=True)
class Row:
    """A row, and what is written below it over the whole width."""

    cells: list[Cell]
    note: str = ""
    headline: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first cell of a row is its name."""

    name: str
    title: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)

    @property
    def groups(self) -> list[tuple[str, list[int]]]:
        """Titles above the columns', each with the columns below it; a column without stands alone."""
        found: list[tuple[str, list[int]]] = []
        for i, column in enumerate(self.columns):
            if column.group and found and found[-1][0] == column.group:
                found[-1][1].append(i)
            else:
                found.append((column.group, [i]))
        return found

    @property
    def csv(self) -> str:
        """Numbers as they are, with columns of their own for deviations, ends of intervals, and what stands below."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        parts = [list(self._parts(i)) for i in range(len(self.columns))]
        noted = any(row.note for row in self.rows)
        writer.writerow([title for column in parts for title, _ in column] + ["note"] * noted)
        for row in self.rows:
            values = [value(cell) for cell, column in zip(row.cells, parts, strict=True) for _, value in column]
            writer.writerow([_written(value) for value in values] + [row.note] * noted)
        return out.getvalue()

    @property
    def csv_link(self) -> str:
        """The CSV as the address of a download."""
        return f"data:text/csv;charset=utf-8,{quote(self.csv)}"

    @property
    def latex(self) -> str:
        """A ``tabular`` for the package booktabs."""
        lines = [rf"\begin{{tabular}}{{{''.join('l' if c.text else 'r' for c in self.columns)}}}", r"\toprule"]
        if any(column.group for column in self.columns):
            lines += self._tex_groups()
        lines += [_tex_row([_tex(column.title) for column in self.columns]), r"\midrule"]
        for row in self.rows:
            lines.append(_tex_row([_tex_cell(cell) for cell in row.cells]))
            if row.note:
                lines.append(rf"\multicolumn{{{len(self.columns)}}}{{l}}{{\footnotesize {_tex(row.note)}}} \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def _parts(self, i: int) -> Iterator[tuple[str, Callable[[Cell], float | str | None]]]:
        """What one column is in the CSV: titles, and how each is found in a cell."""
        column, cells = self.columns[i], [row.cells[i] for row in self.rows]
        title = f"{column.group}: {column.title}" if column.group else column.title
        yield title, lambda cell: cell.value
        if any(cell.deviation is not None for cell in cells):
            yield f"{title}, standard deviation", lambda cell: cell.deviation
        if any(cell.interval for cell in cells):
            yield f"{title}, 95% interval from", lambda cell: cell.interval and cell.interval[0]
            yield f"{title}, 95% interval to", lambda cell: cell.interval and cell.interval[1]

    def _tex_groups(self) -> list[str]:
        heads, rules = [], []
        for title, columns in self.groups:
            heads.append(rf"\multicolumn{{{len(columns)}}}{{c}}{{{_tex(title)}}}" if title else "")
            if title:
                rules.append(rf"\cmidrule(lr){{{columns[0] + 1}-{columns[-1] + 1}}}")
        return [_tex_row(heads), " ".join(rules)]


def words(text: object, **looks: bool | str) -> Cell:
    """A cell of text, the sign for none where there is none."""
    known = text not in (None, "")
    return Cell(str(text) if known else MISSING, str(text) if known else None, **looks)  # type: ignore[arg-type]


def figure(value: float | None, write: Callable[[float | None], str] = number) -> Cell:
    """A cell of one number."""
    return Cell(write(value), value)


def accuracy(found: Spread | None, best: bool = False) -> Cell:
    """A cell of an accuracy, which is a fraction, in per cent."""
    if found is None:
        return Cell(MISSING)
    ends = found.interval and (100 * found.interval[0], 100 * found.interval[1])
    deviation = None if found.std is None else 100 * found.std
    return Cell(percent(found.mean), 100 * found.mean, deviation, ends, best)


def mean(found: Spread | None) -> Cell:
    """A cell of a mean over runs."""
    return Cell(MISSING) if found is None else Cell(number(found.mean), found.mean, found.std)


def _written(value: float | str | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _tex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _TEX)), lambda sign: _TEX[sign[0]], text)


def _tex_row(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _tex_cell(cell: Cell) -> str:
    text = _tex(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    if cell.deviation is not None:
        text += rf" $\pm$ {number(cell.deviation)}"
    if cell.interval is not None:
        text += rf" {{\scriptsize [{cell.interval[0]:.1f}, {cell.interval[1]:.1f}]}}"
    return text
