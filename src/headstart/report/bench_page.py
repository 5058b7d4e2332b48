"""The page of a bench: every recipe's accuracies over all seeds, and what its training cost."""

from __future__ import annotations

from headstart.report import plots, tables
from headstart.report.layout import document, footer, header, note, section
from headstart.report.records import Record, Spread, spread
from headstart.report.style import colour
from headstart.report.tables import budget, escape, percent

_COSTS = {"cpu_seconds": "processor time of the run, validation included, seconds", "seconds": "training, seconds"}
_READ_LADDER = "A network is as robust as its leftmost dot; the dots to its right are attacks that flatter it."
_READ_COST = (
    "Up and to the left is better. Named are the recipes that no cheaper one matches; point at the others to see what "
    "they are. Bars: standard deviation over seeds."
)


def bench_page(summary: Record) -> str:
    """A page on the summary that `headstart.campaigns.bench` writes as ``table.json``.

    Recipes stand in its order, the most robust first. Their names lose the data set if all share one.
    """
    rows = summary["rows"]
    suite = {"standard": "AutoAttack"}.get(summary["suite"], f"suite {summary['suite']}")
    data_sets = {row["recipe"].rpartition("/")[0] for row in rows}
    names = [row["recipe"].rpartition("/")[2] if len(data_sets) == 1 else row["recipe"] for row in rows]
    about = [*sorted(data_sets - {""}), f"ε = {budget(summary['epsilon'])}", f"test images: {summary['n']}"]
    sections = [
        header(" · ".join(about), f"{len(rows)} recipes, measured side by side", _lede(rows, names, suite)),
        _ladder(rows, names, suite),
        _cost(rows, names, suite, summary["cost"]),
        _table(rows, names, suite),
        footer("Measurement", {key: summary[key] for key in ("suite", "n", "epsilon")}, [summary]),
    ]
    return document(f"headstart bench: {len(rows)} recipes", sections)


def _spread(row: Record, column: str) -> Spread:
    found = spread(row[column])
    assert found is not None
    return found


def _lede(rows: list[Record], names: list[str], suite: str) -> str:
    best = _spread(rows[0], "robust")
    collapsed = [name for row, name in zip(rows, names, strict=True) if any(row["collapsed_epochs"])]
    sentence = f"{names[0]} is the most robust: {percent(best.mean, '%')} under {suite}."
    if not collapsed:
        return sentence + " None collapsed."
    return sentence + f" The monitor saw {len(collapsed)} of {len(rows)} recipes collapse in at least one seed."


def _ladder(rows: list[Record], names: list[str], suite: str) -> str:
    columns = {"clean": "clean", "FGSM": "fgsm", "PGD-20": "pgd-20", suite: "robust"}
    lines = [
        (name, {title: _spread(row, key).mean for title, key in columns.items()}, _spread(row, "robust").std or 0.0)
        for row, name in zip(rows, names, strict=True)
    ]
    symbols = ", ".join(
        f"{symbol} {escape(title)}" for symbol, title in zip(plots.LADDER_SYMBOLS, columns, strict=True)
    )
    read = f"{_READ_LADDER} {symbols}."
    figure = plots.ladder(lines, colour(2), name="ladder")
    return section("Accuracy under attack", read, f'<div class="card panel">{figure}</div>')


def _cost(rows: list[Record], names: list[str], suite: str, cost: str) -> str:
    points = []
    for row, name in zip(rows, names, strict=True):
        robust = _spread(row, "robust")
        bar = (robust.mean - robust.std, robust.mean + robust.std) if robust.std is not None else None
        points.append(plots.Point(name, colour(2), _spread(row, cost).mean, robust.mean, bar))
    figure = plots.frontier(points, _COSTS[cost], suite, name="cost")
    return section("Cost against robustness", _READ_COST, f'<div class="card panel">{figure}</div>')


def _table(rows: list[Record], names: list[str], suite: str) -> str:
    notes = (
        "± is the sample standard deviation over seeds. Processor seconds are those of all threads, validation "
        "included; unlike seconds of the clock they depend little on what else the machine does. Collapsed: seeds in "
        "which the monitor saw it."
    )
    return section("Every recipe", "", tables.bench_table(rows, names, suite) + note(notes))
