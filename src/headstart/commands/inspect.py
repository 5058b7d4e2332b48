"""``headstart inspect``."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from headstart.commands.evaluate import SOURCE
from headstart.commands.flags import add_fields, given
from headstart.evaluation.settings import NOT_INSPECTED, EvaluationSettings


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("sources", type=str, nargs="+", help=f"{SOURCE}; several are set side by side")
    sub.add_argument("--n", type=int, default=8, help="test images that are shown")
    sub.add_argument("--sample", type=int, default=200, help="test images behind the curves and distributions")
    add_fields(sub, EvaluationSettings, skip=NOT_INSPECTED)
    sub.add_argument(
        "--out", type=Path, default=Path("inspection"), help="folder for the page, its figures and numbers"
    )


def run(options: Namespace) -> int:
    """Run it; the exit code."""
    from headstart.evaluation.inspection.inspect import inspect
    from headstart.report import inspect_page, save_figures
    from headstart.runs.files import check_writable, write_text

    page, figures, numbers = (options.out / name for name in ("inspection.html", "figures", "inspection.json"))
    check_writable(page)
    settings = {name: value for name, value in given(options, EvaluationSettings).items() if name != "n"}
    found = inspect(options.sources, n=options.n, sample=options.sample, **settings)
    write_text(page, inspect_page(found))
    figures.mkdir(parents=True, exist_ok=True)
    save_figures(found, figures)
    runs = [{key: value for key, value in run.items() if key != "pictures"} for run in found["runs"]]
    kept = {key: value for key, value in found.items() if key != "pictures"} | {"runs": runs}
    write_text(numbers, json.dumps(kept) + "\n")
    print(page)
    return 0
