"""The table of a bench: mean and deviation over seeds, and how sure the order is."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from functools import reduce
from operator import getitem
from typing import Any, TypeAlias

import numpy as np

from headstart.campaigns import by_time
from headstart.campaigns.folders import BenchFolder
from headstart.evaluation.paired import Paired, paired
from headstart.report import bench_page, device_note
from headstart.report.groups import passes_per_update
from headstart.runs.files import write_text

Record: TypeAlias = dict[str, Any]
COLUMNS = ("clean", "fgsm", "pgd-20", "robust", "seconds", "cpu_seconds")


def write_tables(folder: BenchFolder, records: Sequence[Record], curves: list[Record]) -> str:
    """Write the table in its three forms, and that of the curves if there are any; the Markdown."""
    table, summarised = tabulate(records)
    write_text(folder.table, table)
    if curves:
        summarised["by_time"] = curves
        by_cost = by_time.markdown(curves, summarised["cost"])
        write_text(folder.time, by_cost)
        table += "\n" + by_cost
    write_text(folder.summary, json.dumps(summarised, indent=1) + "\n")
    write_text(folder.page, bench_page(summarised, folder.figures))
    return table


def tabulate(records: Sequence[Record]) -> tuple[str, Record]:
    """The table in Markdown, and what it was made from."""
    behind = behind_the_first(by_recipe(records))
    return markdown(records, behind), summary(records, behind)


def summary(records: Sequence[Record], behind: dict[str, Paired]) -> Record:
    """What the table was made from: settings once, the figures of every seed."""
    groups = by_recipe(records)
    return {
        "suite": records[0]["evaluation"]["suite"],
        "n": records[0]["evaluation"]["n"],
        "epsilon": records[0]["evaluation"]["epsilon"],
        "environment": records[0]["evaluation"]["environment"],
        "devices": by_device(records),
        "cost": cost_column(records),
        "rows": [
            {
                "recipe": name,
                "recipe_fields": {k: v for k, v in rows[0]["recipe"].items() if k != "seed"},
                "n": rows[0]["evaluation"]["n"],
                "seeds": [r["seed"] for r in rows],
                **{column: [r[column] for r in rows] for column in COLUMNS},
                "collapsed_epochs": [r["collapsed_epochs"] for r in rows],
                "passes_per_update": passes_per_update(rows[0]["cost"]),
                **({"behind_the_first": behind[name]._asdict()} if name in behind else {}),
                **({"last": {c: [r["last"][c] for r in rows] for c in COLUMNS[:4]}} if have("last", rows) else {}),
                **({"curves": [r["curve"] for r in rows]} if have("curve", rows) else {}),
            }
            for name, rows in groups.items()
        ],
    }


def have(part: str, records: Sequence[Record]) -> bool:
    """Whether all of them have this part."""
    return all(part in record for record in records)


def by_recipe(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of one recipe together, the most robust on average first."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["recipe_name"], []).append(record)
    return dict(sorted(groups.items(), key=lambda group: -statistics.mean(r["robust"] for r in group[1])))


def cost_column(records: Sequence[Record]) -> str:
    """What a training cost: with a GPU the processor only waits, without one the clock counts other work too."""
    return "seconds" if records[0]["cost"]["peak_memory_bytes"] else "cpu_seconds"


def by_device(records: Sequence[Record]) -> dict[str, list[str]]:
    """The recipes that were measured on each device: a bench that goes on elsewhere has several."""
    found: dict[str, list[str]] = {}
    for name, rows in by_recipe(records).items():
        for device in sorted({row["evaluation"]["environment"]["device"] for row in rows}):
            found.setdefault(device, []).append(name)
    return found


def behind_the_first(groups: dict[str, list[Record]]) -> dict[str, Paired]:
    """How far each recipe is behind the most robust one, on the same images; empty for records without verdicts."""
    if not all("withstands" in record for rows in groups.values() for record in rows):
        return {}
    verdicts = {
        name: np.array([[mark == "1" for mark in r["withstands"]] for r in rows]) for name, rows in groups.items()
    }
    first = next(iter(verdicts.values()))
    return {name: paired(first, other) for name, other in list(verdicts.items())[1:]}


def markdown(records: Sequence[Record], behind: dict[str, Paired]) -> str:
    """Mean and sample standard deviation over seeds, accuracies in percent."""
    groups = by_recipe(records)
    columns = _columns(records, behind)
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, rows in groups.items():
        lines.append(f"| {' | '.join(cell(name, rows) for cell in columns.values())} |")
    if note := device_note(by_device(records)):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _columns(records: Sequence[Record], behind: dict[str, Paired]) -> dict[str, Callable[[str, list[Record]], str]]:
    """Titles, and what stands below them for a recipe."""
    suite, n = records[0]["evaluation"]["suite"], records[0]["evaluation"]["n"]
    cost = cost_column(records)
    columns: dict[str, Callable[[str, list[Record]], str]] = {
        "recipe": lambda name, rows: name,
        "seeds": lambda name, rows: str(len(rows)),
        **{title: _mean(key) for title, key in (("clean", "clean"), ("FGSM", "fgsm"), ("PGD-20", "pgd-20"))},
        f"{suite} ({n} images)": _mean("robust"),
    }
    if behind:
        columns["behind the first (95 %)"] = lambda name, rows: _interval(behind.get(name))
    if have("last", records):
        columns["last epoch: PGD-20"] = _mean("last", "pgd-20")
        columns[f"last epoch: {suite}"] = _mean("last", "robust")
    columns["processor, s" if cost == "cpu_seconds" else "training, s"] = _mean(cost, scale=1)
    return columns


def _mean(*keys: str, scale: float = 100) -> Callable[[str, list[Record]], str]:
    def cell(name: str, rows: list[Record]) -> str:
        values = [scale * float(reduce(getitem, keys, row)) for row in rows]  # type: ignore[arg-type]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{spread}"

    return cell


def _interval(found: Paired | None) -> str:
    if found is None:
        return ""
    return f"{100 * found.difference:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
