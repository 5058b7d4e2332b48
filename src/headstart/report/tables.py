"""Numbers as text, and HTML tables of them."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

from headstart.evaluation.compare import Comparison
from headstart.report.records import (
    Group,
    Record,
    Spread,
    collapse_epoch,
    curve,
    flat,
    measured_by,
    method_of,
    passes_per_update,
    split_settings,
    spread,
)

MISSING = "—"
_SHOWN_ELSEWHERE = (
    "name",
    "method",
    "method.name",
    "out",
)  # settings that have a column already, or say only where a run is
PASSES = {"forwards": "forward", "input_gradients": "input grad.", "backwards": "backward"}


def escape(value: object) -> str:
    """Any value as HTML text, also inside quoted attributes."""
    return html.escape(str(value))


def percent(fraction: float | None, unit: str = "") -> str:
    """A fraction in per cent with one decimal: 0.969 as "96.9"."""
    return MISSING if fraction is None else f"{100 * fraction:.1f}{unit}"


def number(value: float | None) -> str:
    """A number at a precision worth reading: one decimal below a hundred, none above."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def passes(value: float | None) -> str:
    """A number of passes: "2", or "3.4" where some updates make more than others."""
    return MISSING if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def budget(epsilon: float | None) -> str:
    """Epsilon as people write it: 8/255 for 0.03137..., 0.3 for 0.3."""
    if epsilon is None:
        return MISSING
    levels = round(epsilon * 255, 1)
    in_levels = math.isclose(epsilon * 255, levels, rel_tol=1e-6) and not math.isclose(epsilon, round(epsilon, 3))
    return f"{levels:g}/255" if in_levels else f"{epsilon:.4g}"


def name_cell(name: str, colour: str) -> str:
    """A name with its dot of colour, as the first cell of a row."""
    return f'<th scope="row">{swatch(colour)}{escape(name)}</th>'


def swatch(colour: str) -> str:
    """The dot of colour that ties a name to its curve."""
    return f'<span class="swatch" style="background:{escape(colour)}"></span>'


def results_table(results: list[Record], passes_of: Mapping[str, Record], colours: Mapping[str, str]) -> str:
    """The demo's result per method; the best PGD and AutoAttack accuracies are underlined."""
    best = {key: _best(row.get(key) for row in results) for key in ("pgd", "autoattack")}
    rows = []
    for row in results:
        cells = [name_cell(row["method"].upper(), colours[row["method"]])]
        cells += [_cell(percent(row.get(key))) for key in ("clean", "fgsm")]
        cells += [
            _cell(_emphasised(percent(row.get(key)), row.get(key) is not None and row.get(key) == best[key]), style)
            for key, style in (("pgd", ""), ("autoattack", "headline"))
        ]
        cells.append(_cell(number(row.get("seconds"))))
        cells += [_cell(passes(passes_of.get(row["method"], {}).get(key))) for key in PASSES]
        rows.append("".join(cells))
    head = (
        '<tr><th rowspan="2">method</th><th colspan="4">accuracy on test images, %</th>'
        '<th rowspan="2">training,<br>seconds</th><th colspan="3">passes per update</th></tr>'
        '<tr><th>clean</th><th>FGSM</th><th>PGD-20</th><th class="headline">AutoAttack</th>'
        + "".join(f"<th>{title}</th>" for title in PASSES.values())
        + "</tr>"
    )
    return _table(head, rows)


def groups_table(groups: list[Group]) -> str:
    """Mean and standard deviation per group; the best robust accuracy is underlined where groups are comparable."""
    attacks = _attacks(run for group in groups for run in group.runs)
    mixed = not comparable(groups)  # then every row says how it was measured
    robust = [group.spread("evaluation", "robust") for group in groups]
    ranked = comparable(groups) and sum(value is not None for value in robust) > 1
    best = _best(value.mean for value in robust if value) if ranked else None
    rows = []
    for group, value in zip(groups, robust, strict=True):
        cells = [name_cell(group.label, group.colour), _cell(str(len(group.runs)))]
        cells.append(_cell(_spread(group.spread("evaluation", "clean"))))
        is_best = value is not None and best is not None and value.mean == best
        cells.append(_cell(_emphasised(_spread(value), is_best), "headline"))
        cells += [_cell(_spread(group.spread("cost", key), 1.0)) for key in ("seconds", "images_per_second")]
        cells += [_cell(_spread(group.attack(attack))) for attack in attacks]
        cells += [_cell(escape(measure(group.runs[0])), "text")] * mixed
        rows.append("".join(cells))
    head = (
        '<tr><th rowspan="2">runs</th><th rowspan="2">number</th><th colspan="2">accuracy, %</th>'
        '<th rowspan="2">training,<br>seconds</th><th rowspan="2">images<br>per second</th>'
        + (f'<th colspan="{len(attacks)}">accuracy under each attack, %</th>' if attacks else "")
        + '<th rowspan="2" class="text">measured by</th>' * mixed
        + '</tr><tr><th>clean</th><th class="headline">robust</th>'
        + "".join(f"<th>{escape(attack)}</th>" for attack in attacks)
        + "</tr>"
    )
    return _table(head, rows)


def runs_table(groups: list[Group]) -> str:
    """One row per run: what sets it apart, where it ended, and what it cost."""
    runs = [run for group in groups for run in group.runs]
    colours = [group.colour for group in groups for _ in group.runs]
    _, settings = split_settings(runs)
    columns = [key for key in settings[0] if key not in _SHOWN_ELSEWHERE]
    rows = []
    for run, colour, own in zip(runs, colours, settings, strict=True):
        epochs, collapse, cost = curve(run), collapse_epoch(run), run["cost"]
        measured: Record = next((row for row in reversed(epochs) if "pgd" in row), {})
        memory = cost.get("peak_memory_bytes")
        per_update = passes_per_update(cost)
        cells = [name_cell(run["name"], colour), _cell(escape(method_of(run)), "text")]
        cells.append(_cell(str(epochs[-1]["epoch"]) if epochs else MISSING))
        cells += [_cell(percent(measured.get(key))) for key in ("clean", "fgsm", "pgd")]
        cells.append(_cell(MISSING if collapse is None else f'<span class="wrong">epoch {collapse}</span>'))
        cells.append(_cell(number(cost.get("seconds"))))
        cells += [_cell(passes(per_update.get(key))) for key in PASSES]
        cells.append(_cell(MISSING if not memory else number(memory / 2**20)))
        cells += [_cell(escape(_setting(own[key])), "text") for key in columns]
        rows.append("".join(cells))
    head = (
        '<tr><th rowspan="2">run</th><th rowspan="2" class="text">method</th>'
        '<th rowspan="2">epochs</th><th colspan="3">last validation, %</th><th rowspan="2">collapse</th>'
        '<th rowspan="2">training,<br>seconds</th><th colspan="3">passes per update</th>'
        '<th rowspan="2">peak,<br>MiB</th>'
        + "".join(f'<th rowspan="2" class="text">{escape(key)}</th>' for key in columns)
        + "</tr><tr><th>clean</th><th>FGSM</th><th>PGD</th>"
        + "".join(f"<th>{title}</th>" for title in PASSES.values())
        + "</tr>"
    )
    return _table(head, rows)


def bench_table(rows: list[Record], names: list[str], suite: str) -> str:
    """One row per recipe of a bench: mean and deviation over its seeds, passes, and how many seeds collapsed."""
    body = []
    for row, name in zip(rows, names, strict=True):
        cells = [f'<th scope="row">{escape(name)}</th>', _cell(str(len(row["seeds"])))]
        cells += [_cell(_spread(spread(row[key]))) for key in ("clean", "fgsm", "pgd-20")]
        cells.append(_cell(_spread(spread(row["robust"])), "headline"))
        cells += [_cell(_spread(spread(row[key]), 1.0)) for key in ("seconds", "cpu_seconds")]
        cells += [_cell(passes(row["passes_per_update"][key])) for key in PASSES]
        cells.append(_cell(str(sum(map(bool, row["collapsed_epochs"])))))
        body.append("".join(cells))
    head = (
        '<tr><th rowspan="2">recipe</th><th rowspan="2">seeds</th><th colspan="4">accuracy on test images, %</th>'
        '<th rowspan="2">training,<br>seconds</th><th rowspan="2">processor,<br>seconds</th>'
        '<th colspan="3">passes per update</th><th rowspan="2">collapsed</th></tr>'
        f'<tr><th>clean</th><th>FGSM</th><th>PGD-20</th><th class="headline">{escape(suite)}</th>'
        + "".join(f"<th>{title}</th>" for title in PASSES.values())
        + "</tr>"
    )
    return _table(head, body)


def comparison_table(compared: list[Comparison]) -> str:
    """The same run against one other in each row: on how many images either alone withstands, and what that shows."""
    rows = []
    for pair in compared:
        low, high = (f"{100 * end:+.1f}" for end in pair.interval)
        cells = [f'<th scope="row">{escape(pair.b)}</th>']
        cells += [_cell(percent(pair.robust_a)), _cell(percent(pair.robust_b)), _cell(str(pair.only_a))]
        cells += [_cell(str(pair.only_b)), _cell(f"{100 * pair.difference:+.1f}"), _cell(f"{low} to {high}")]
        cells += [_cell(f"{pair.p_value:.2g}"), _cell("shown" if pair.better else "not shown", "text")]
        rows.append("".join(cells))
    head = (
        '<tr><th rowspan="2">against</th><th colspan="2">robust accuracy, %</th>'
        '<th colspan="2">images withstood by</th><th colspan="2">difference, points</th>'
        '<th rowspan="2">McNemar,<br>p</th><th rowspan="2" class="text">verdict</th></tr>'
        "<tr><th>best</th><th>other</th><th>best alone</th><th>other alone</th><th>mean</th><th>95% interval</th></tr>"
    )
    return _table(head, rows)


def sweep_table(lines: list[tuple[str, str, Record]]) -> str:
    """Accuracy of each run of ``(label, colour, record)`` at each epsilon that any of them was swept over."""
    sizes = sorted({size for _, _, record in lines for size in record["epsilons"]})
    rows = []
    for label, colour, record in lines:
        at = dict(zip(record["epsilons"], record["accuracies"], strict=True))
        attacked = f"{record.get('suite', MISSING)}, {record.get('n', MISSING)} images"
        cells = [name_cell(label, colour), *(_cell(percent(at.get(size))) for size in sizes)]
        rows.append("".join([*cells, _cell(escape(attacked), "text")]))
    head = (
        f'<tr><th rowspan="2">run</th><th colspan="{len(sizes)}">accuracy at epsilon, %</th>'
        '<th rowspan="2" class="text">measured by</th></tr>'
        f"<tr>{''.join(f'<th>{budget(size)}</th>' for size in sizes)}</tr>"
    )
    return _table(head, rows)


def definitions(values: Mapping[str, Any]) -> str:
    """Names and values as a definition list; nested settings are written ``outer.inner``."""
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(_setting(value))}</dd>" for key, value in flat(values).items())
    return f"<dl>{items}</dl>"


def comparable(groups: list[Group]) -> bool:
    """Whether every group that was evaluated was evaluated in the same way."""
    return len({measured_by(group.runs[0]) for group in groups} - {None}) <= 1


def _attacks(runs: Iterable[Record]) -> list[str]:
    names = (name for run in runs for name in (run["evaluation"] or {}).get("attacks", {}))
    return list(dict.fromkeys(names))


def measure(run: Record) -> str:
    """How a run was measured, in words: suite, epsilon and number of images."""
    measured = measured_by(run)
    if measured is None:
        return "not evaluated"
    suite, n, epsilon = measured
    return f"{suite}, ε = {budget(epsilon)}, {n} images"


def _best(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _spread(value: Spread | None, scale: float = 100.0) -> str:
    if value is None:
        return MISSING
    deviation = "" if value.std is None else f' <span class="std">± {number(scale * value.std)}</span>'
    return number(scale * value.mean) + deviation


def _emphasised(text: str, best: bool) -> str:
    return f"<strong>{text}</strong>" if best else text


def _cell(content: str, style: str = "") -> str:
    return f'<td class="{style}">{content}</td>' if style else f"<td>{content}</td>"


def _table(head: str, rows: Iterable[str]) -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="card scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _setting(value: Any) -> str:
    return MISSING if value is None else str(value)
