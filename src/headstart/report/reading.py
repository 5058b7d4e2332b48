"""Reading the files of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from headstart.errors import StorageError
from headstart.runs.folder import CONFIG, RunFolder

Json = dict[str, Any]


def load_run(path: str | Path) -> Json:
    """Read configuration, epochs, evaluation, upper bound, sweep and cost of a run folder.

    Only the configuration must be there: a run that was interrupted or not yet evaluated has less to show.

    Returns:
        ``{"name", "config", "metrics", "evaluation", "bound", "sweep", "cost"}``; evaluation, bound and sweep are None
        and cost is empty where absent.

    Raises:
        StorageError: there is no such directory, it holds no run, or one of its files cannot be read.
    """
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise StorageError(f"no run directory {str(folder.path)!r}; name one that `headstart train` wrote")
    if not folder.config.exists():
        raise StorageError(f"{str(folder.path)!r} is not a run: it has no {CONFIG}")
    return {
        "name": folder.path.resolve().name,
        "config": _mapping(folder.config),
        "metrics": _if_there(folder.metrics, _rows, []),
        "evaluation": _if_there(folder.evaluation, _evaluation, None),
        "bound": _if_there(folder.bound, _bound, None),
        "sweep": _if_there(folder.sweep, _sweep, None),
        "cost": _if_there(folder.cost, _mapping, {}),
    }


def _if_there(path: Path, read: Callable[[Path], Any], otherwise: Any) -> Any:
    return read(path) if path.exists() else otherwise


def _evaluation(path: Path) -> Json:
    evaluation = _mapping(path)
    for key in ("clean", "robust"):
        if not isinstance(evaluation.get(key), int | float):
            raise StorageError(f"broken file {str(path)!r}: no number {key!r}; evaluate the run again")
    return evaluation


def _bound(path: Path) -> Json:
    bound = _mapping(path)
    if lacking := [key for key in ("bound", "interval", "n", "total", "attacks", "seconds") if key not in bound]:
        raise StorageError(f"broken file {str(path)!r}: no {lacking[0]!r}; evaluate with a budget again")
    return bound


def _sweep(path: Path) -> Json:
    sweep = _mapping(path)
    sizes, accuracies = (sweep.get(key) for key in ("epsilons", "accuracies"))
    if not isinstance(sizes, list) or not isinstance(accuracies, list) or len(sizes) != len(accuracies):
        raise StorageError(f"broken file {str(path)!r}: no accuracy for each epsilon; sweep the run again")
    return sweep


def _rows(path: Path) -> list[Json]:
    lines = enumerate(_text(path).split("\n"), start=1)
    rows = [_parsed(path, line, where=f", line {number}") for number, line in lines if line.strip()]
    if not all(isinstance(row.get("epoch"), int) for row in rows):
        raise StorageError(f"broken file {str(path)!r}: a row has no epoch number")
    return rows


def _mapping(path: Path) -> Json:
    return _parsed(path, _text(path))


def _parsed(path: Path, text: str, where: str = "") -> Json:
    """Parse YAML or JSON that must be a mapping."""
    try:
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise StorageError(f"broken file {str(path)!r}{where}: {_first_line(error)}") from error
    if not isinstance(value, dict):
        raise StorageError(f"broken file {str(path)!r}{where}: expected keys and values, found {type(value).__name__}")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {str(path)!r}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
