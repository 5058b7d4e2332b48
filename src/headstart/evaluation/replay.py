"""An evaluation made anew from its record, and whether the verdicts are the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import DataError, SettingError
from headstart.evaluation.evaluate import evaluate
from headstart.evaluation.result import Evaluation
from headstart.evaluation.settings import FIELDS, FROM_PYTHON
from headstart.evaluation.stored import Record, read_record
from headstart.evaluation.subject import Source
from headstart.fields import pixel_fraction

MEASURED = ("suite", "n", "epsilon", "norm", "batch_size", "seed")
"""Settings that every record holds as they were in the end, whatever was left open when they were asked for."""
NEEDED = (*MEASURED, "precision", "images", "attacks", "broken_by")
ELSEWHERE = ("device", "devices")
"""Settings that say where an evaluation runs, and change no verdict but by rounding."""


@dataclass(frozen=True)
class Replay:
    """An evaluation beside the record that it was made from.

    Attributes:
        now: the evaluation.
        same_images: both are of the same pixels and labels.
        differing: rows of the images that another attack broke first, or that only one of the two counts robust.
    """

    now: Evaluation
    same_images: bool
    differing: list[int]

    @property
    def agrees(self) -> bool:
        """Whether every verdict is the recorded one."""
        return self.same_images and not self.differing

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        if not self.same_images:
            return "the images are not those of the record"
        if self.agrees:
            return f"all {self.now.n} verdicts are those of the record"
        rows = ", ".join(map(str, self.differing[:10])) + (", ..." if len(self.differing) > 10 else "")
        return f"{len(self.differing)} of {self.now.n} verdicts differ from the record's (rows {rows})"


def replay(path: Path, source: Source | None = None, *, progress: bool = True, **given: Any) -> Replay:
    """Evaluate anew, with the settings that the record of an evaluation holds.

    Args:
        path: the JSON file.
        source: what was evaluated, in place of what the record says; needed where it does not say it.
        given: arguments of ``evaluate`` that the record does not hold, and device and devices.

    Raises:
        UserError: no record, one that lacks something, a setting other than the recorded one, or see ``evaluate``.
    """
    record = read_record(path)
    if lacking := [key for key in NEEDED if key not in record]:
        raise DataError(f"{path} lacks {', '.join(lacking)}: it is too old to be replayed; evaluate anew")
    settings = settings_of(record)
    stored = settings.pop("source", None)
    if source is None and (stored is None or _is_object(stored)):
        raise SettingError(f"{path} does not say what was evaluated; name the source as well")
    _check_given(given, settings, path)
    settings |= given
    _check_complete(settings, record, path)
    now = evaluate(stored if source is None else source, progress=progress, **settings)
    pairs = zip(now.broken_by, record["broken_by"], strict=False)
    differing = [row for row, (ours, theirs) in enumerate(pairs) if ours != theirs]
    return Replay(now, now.images == record["images"], differing)


def settings_of(record: Record) -> dict[str, Any]:
    """The source, where the record has it, and the settings, with nothing left open that the record knows."""
    known = {name: value for name, value in (record.get("request") or {}).items() if name in (*FIELDS, "source")}
    search = "fp32" if record["precision"] == "float32" else record["precision"].split()[0]
    return known | {name: record[name] for name in MEASURED} | {"search_precision": search}


def _check_given(given: dict[str, Any], recorded: dict[str, Any], path: Path) -> None:
    """Refuse settings that contradict the record."""
    for name, value in given.items():
        if name in ELSEWHERE or name not in recorded or _is_object(recorded[name]):
            continue
        if recorded[name] != (pixel_fraction(value) if name == "epsilon" else value):
            raise SettingError(f"{name} is {recorded[name]!r} in {path}; leave it out, or evaluate anew")


def _check_complete(settings: dict[str, Any], record: Record, path: Path) -> None:
    """Refuse settings that still lack what only Python held, or what older records do not hold."""
    for name in ("data", "transfer_from"):
        if _is_object(settings.get(name)):
            raise SettingError(f"{name} of {path} was given from Python; give it again")
    if "transfer" in record["attacks"] and settings.get("transfer_from") is None:
        raise SettingError(f"{path} does not say which second network was used; give transfer_from as well")


def _is_object(value: object) -> bool:
    return isinstance(value, str) and value.startswith(FROM_PYTHON)
