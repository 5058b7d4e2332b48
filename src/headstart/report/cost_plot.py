"""The figure of cost against robustness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headstart.report import drawing
from headstart.report.numbers import percent
from headstart.report.plots import GREY, NARROW, WIDE, Plot, in_percent, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FEW = 8  # points that can all be named
# Where a label may stand beside its dot: offset in points, horizontal and vertical alignment. Off the bar first.
_PLACES = (
    (5, 4, "left", "bottom"), (-5, 4, "right", "bottom"), (5, -4, "left", "top"), (-5, -4, "right", "top"),
    (7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 7, "center", "bottom"), (0, -7, "center", "top"),
)  # fmt: skip
_ON_TOP = (0, 2, "center", "bottom")  # of the bar


@dataclass(frozen=True)
class Point:
    """One method or group of runs in the plot of cost against robustness; the interval is that of ``robust``."""

    label: str
    colour: str
    cost: float
    robust: float
    interval: tuple[float, float] | None = None

    @property
    def tip(self) -> str:
        """Its numbers in words."""
        ends = f" (95%: {percent(self.interval[0])} to {percent(self.interval[1])})" if self.interval else ""
        return f"{self.label}: {percent(self.robust, '%')}{ends} in {self.cost:,.1f} s"


def cost_plot(points: list[Point], unit: str, attack: str, name: str) -> Plot:
    """Cost against robust accuracy; a line joins those that no cheaper one matches, and they are named first."""
    wide, narrow = (_cost(points, unit, attack, size) for size in ((WIDE, 4.2), (NARROW, 4.4)))
    return Plot(name, f"accuracy under {attack} against {unit}, of {len(points)}", wide, narrow)


def _cost(points: list[Point], unit: str, attack: str, size: tuple[float, float]) -> Figure:
    figure, axes = drawing.new(*size)
    best = sorted((p for p in points if not any(_beats(q, p) for q in points)), key=lambda point: point.cost)
    axes.step([p.cost for p in best], [p.robust for p in best], where="post", color=GREY, linewidth=1, linestyle=":")
    for point in points:
        leads = point in best or len(points) <= _FEW
        colour = point.colour if leads else GREY
        if point.interval:
            axes.vlines(point.cost, *point.interval, color=colour, linewidth=1, alpha=0.9 if leads else 0.3)
        (dot,) = axes.plot(point.cost, point.robust, "o", color=colour, markersize=7 if leads else 5)
        dot.set_zorder(3)
        drawing.tip(dot, point.tip)
    highest = max(0.01, *(point.interval[1] if point.interval else point.robust for point in points))
    axes.set(xlabel=unit, ylabel=f"accuracy under {plain(attack)}", ylim=(-0.02 * highest, 1.06 * highest))
    in_percent(axes.yaxis)
    _cost_axis(axes, [point.cost for point in points])
    others = [point for point in points if point not in best]
    _name(figure, axes, [*best, *others], len(points) if len(points) <= _FEW else len(best))
    return figure


def _beats(one: Point, other: Point) -> bool:
    """Whether it is no worse in either respect, and better in one."""
    return (
        one.cost <= other.cost and one.robust >= other.robust and (one.cost, one.robust) != (other.cost, other.robust)
    )


def _cost_axis(axes: Any, costs: list[float]) -> None:
    """From zero, or in powers where the costs are of different orders."""
    if min(costs) <= 0 or max(costs) < 12 * min(costs):
        axes.set_xlim(0, 1.15 * max(costs))
        return
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _name(figure: Figure, axes: Any, points: list[Point], first: int) -> None:
    """Name the first of the points where a name covers neither dots nor other names; the others have tips."""
    figure.draw_without_rendering()  # lays the axes out
    figure.set_layout_engine("none")  # and so settles where dots are
    dots = [axes.transData.transform((p.cost, p.robust)) for p in points]
    boxes = [_box(x - 5, y - 5, x + 5, y + 5) for x, y in dots]
    for point in points[:first]:
        (x, low), (_, high) = axes.transData.transform(
            [(point.cost, end) for end in point.interval or [point.robust] * 2]
        )
        boxes.append(_box(x - 1, low, x + 1, high))
    for i, point in enumerate(points[:first]):
        above = point.interval[1] if point.interval else point.robust
        for height, (x, y, across, along) in [(point.robust, p) for p in _PLACES] + [(above, _ON_TOP)]:
            note = axes.annotate(
                plain(point.label), (point.cost, height), (x, y), textcoords="offset points", ha=across, va=along
            )
            note.set_in_layout(False)
            box, inside = note.get_window_extent(), figure.bbox
            fits = axes.bbox.x0 < box.x0 and box.x1 < inside.x1 and axes.bbox.y0 < box.y0 and box.y1 < inside.y1
            if fits and not any(box.overlaps(other) for j, other in enumerate(boxes) if j != i):
                boxes.append(box)
                break
            note.remove()


def _box(*corners: float) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(*corners)
