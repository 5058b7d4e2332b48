"""The tables of the page of some runs."""

from __future__ import annotations

from headstart.evaluation.compare import Comparison
from headstart.report.cautions import Caution
from headstart.report.groups import (
    PASSES,
    Group,
    attacks,
    collapse_epoch,
    curve,
    method_of,
    passes_per_update,
    split_settings,
)
from headstart.report.numbers import MISSING, Spread, budget, passes, percent, points, setting
from headstart.report.protocol import Beside
from headstart.report.ranking import Ranking
from headstart.report.reading import Json
from headstart.report.tables import Cell, Column, Row, Table, accuracy, figure, mean, words

PASSES_COLUMNS = [Column(title, "passes per update") for title in PASSES.values()]


def passes_cells(counted: Json) -> list[Cell]:
    """Below ``PASSES_COLUMNS``."""
    return [figure(counted.get(key), passes) for key in PASSES]


def robustness(groups: list[Group], ranks: Ranking | None, differing: bool, found: list[Caution]) -> Table:
    """Accuracies and speed of every group; how it was measured where that differs."""
    names = list(dict.fromkeys(name for group in groups for run in group.runs for name in attacks(run)))
    columns = [Column("runs", text=True), Column("number"), Column("clean", "accuracy, %")]
    columns += [
        Column("robust", "accuracy, %", headline=True),
        Column("training, seconds"),
        Column("images per second"),
    ]
    columns += [Column(name, "accuracy under each attack, %") for name in names]
    columns += [Column("measured by", text=True)] * differing + [Column("warnings")] * bool(found)
    rows = []
    for group in groups:
        best = ranks is not None and ranks.of > 1 and group.title in ranks.top
        cells = [words(group.label, colour=group.colour), Cell(str(len(group.runs)), float(len(group.runs)))]
        cells += [accuracy(group.accuracy("clean")), accuracy(group.accuracy("robust"), best)]
        cells += [mean(group.cost("seconds")), mean(group.cost("images_per_second"))]
        cells += [accuracy(group.attack(name)) for name in names]
        cells += [words(group.measured)] * differing
        rows.append(Row(cells + [_warned(found, {run["name"] for run in group.runs})] * bool(found)))
    return Table("robustness", "Robustness", columns, rows)


def bounds(runs: list[Json]) -> Table | None:
    """What ``headstart evaluate --budget`` found; None where it was not run."""
    columns = [Column("run", text=True), Column("at most, %"), Column("images dealt"), Column("of"), Column("seconds")]
    columns += [Column("attacks, broken of tried", text=True)]
    rows = []
    for run in runs:
        if bound := run["bound"]:
            low, high = bound["interval"]
            most = Cell(percent(bound["bound"]), 100 * bound["bound"], interval=(100 * low, 100 * high))
            fared = ", ".join(f"{name} {one['broken']} of {one['tried']}" for name, one in bound["attacks"].items())
            counted = [Cell(str(bound[key]), float(bound[key])) for key in ("n", "total")]
            rows.append(Row([words(run["name"]), most, *counted, figure(bound["seconds"]), words(fared)]))
    return Table("bounds", "Upper bounds within a time", columns, rows) if rows else None


def compared(comparisons: list[Comparison]) -> Table:
    """The best against each of the others."""
    columns = [
        Column("against", text=True),
        Column("best", "robust accuracy, %"),
        Column("other", "robust accuracy, %"),
    ]
    columns += [Column("best alone", "images withstood by"), Column("other alone", "images withstood by")]
    columns += [Column("mean", "difference, points"), Column("95% interval", "difference, points")]
    columns += [Column("McNemar, p"), Column("verdict", text=True)]
    rows = []
    for pair in comparisons:
        ends = f"{points(pair.interval[0])} to {points(pair.interval[1])}"
        cells = [words(pair.b), figure(pair.robust_a, percent), figure(pair.robust_b, percent)]
        cells += [Cell(str(alone), float(alone)) for alone in (pair.only_a, pair.only_b)]
        cells += [Cell(points(pair.difference), 100 * pair.difference), words(ends)]
        verdict = "level" if pair.better is None else "better"
        rows.append(Row([*cells, Cell(f"{pair.p_value:.2g}", pair.p_value), words(verdict)]))
    return Table("comparisons", "The best against the others", columns, rows)


def published(found: Beside, name: str) -> Table:
    """A run above the published rows of its kind, with the differences in protocol below each."""
    titles = ("clean", "PGD-50", "AutoAttack")
    columns = [Column(title, text=True) for title in ("source", "method", "network", "checkpoint")]
    config = found.run["config"]
    ours = [words(text) for text in (found.run["name"], config["method"], config.get("model"), "best")]
    rows = [Row([*ours, *map(accuracy, found.ours.values())], headline=True)]
    for row, differences in found.rows:
        cells = [words(text) for text in (row.source, row.method, row.network, row.checkpoint)]
        spreads = {key: None if value is None else Spread(value, None) for key, value in row.figures.items()}
        last = spreads["autoattack"]
        if last is not None:
            spreads["autoattack"] = Spread(last.mean, row.deviation)
        rows.append(Row([*cells, *map(accuracy, spreads.values())], "; ".join(differences) or "same protocol"))
    return Table(name, f"{found.run['name']} beside published numbers", columns + [Column(t) for t in titles], rows)


def swept(lines: list[Json], found: list[Caution], name: str) -> Table:
    """Accuracy at each epsilon of every run that was swept."""
    sizes = sorted({size for line in lines for size in line["accuracies"]})
    columns = [Column("run", text=True)] + [Column(budget(size), "accuracy at epsilon, %") for size in sizes]
    columns += [Column("measured by", text=True)] + [Column("warnings")] * bool(found)
    rows = []
    for line in lines:
        cells = [accuracy(line["spreads"].get(size)) for size in sizes]
        cells += [words(f"{line['suite']}, {line['n']} images")]
        cells += [_warned(found, {f"sweep of {line['label']}"})] * bool(found)
        rows.append(Row([words(line["label"], colour=line["colour"]), *cells]))
    return Table(name, "Accuracy over epsilon", columns, rows)


def each(groups: list[Group]) -> Table:
    """One row per run: what sets it apart, where it ended, and what it cost."""
    runs = [(run, group.colour) for group in groups for run in group.runs]
    own = split_settings([run for run, _ in runs])[1]
    differing = [key for key in own[0] if key != "method"]  # which has a column already
    columns = [Column("run", text=True), Column("method", text=True), Column("epochs")]
    columns += [Column(title, "last validation, %") for title in ("clean", "FGSM", "PGD")]
    columns += [Column("collapse"), Column("training, seconds"), *PASSES_COLUMNS, Column("peak, MiB")]
    columns += [Column(name, text=True) for name in differing]
    rows = []
    for (run, colour), settings in zip(runs, own, strict=True):
        values = [settings[name] for name in differing]
        texts = [budget(v) if key == "epsilon" else setting(v) for key, v in zip(differing, values, strict=True)]
        rows.append(Row([*_ending(run, colour), *(Cell(text, text) for text in texts)]))
    return Table("runs", "Each run" if len(runs) > 1 else "The run", columns, rows)


def _ending(run: Json, colour: str) -> list[Cell]:
    epochs, cost = curve(run), run["cost"]
    validation: Json = next((row for row in reversed(epochs) if "pgd" in row), {})
    cells = [words(run["name"], colour=colour), words(method_of(run))]
    cells.append(Cell(str(epochs[-1]["epoch"]), float(epochs[-1]["epoch"])) if epochs else Cell(MISSING))
    cells += [figure(None if (v := validation.get(key)) is None else v, percent) for key in ("clean", "fgsm", "pgd")]
    collapse, memory = collapse_epoch(run), cost.get("peak_memory_bytes")
    cells.append(Cell(f"epoch {collapse}", float(collapse), alarming=True) if collapse else Cell(MISSING))
    cells += [figure(cost.get("seconds")), *passes_cells(passes_per_update(cost))]
    return [*cells, figure(memory / 2**20 if memory else None)]


def _warned(found: list[Caution], names: set[str]) -> Cell:
    """How many warnings there are about any of these, and the way to the first."""
    about = [caution for caution in found if names & set(caution.about)]
    return Cell(str(len(about)), float(len(about)), link=f"#{about[0].anchor}") if about else Cell(MISSING)
