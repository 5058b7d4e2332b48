"""The settings of an evaluation, as one flat, validated record. Reading them loads no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from headstart.errors import unknown
from headstart.fields import at_least, check_fields, pixel_fraction

SEARCH_PRECISIONS = ("auto", "fp32", "tf32", "bf16")
"""What attacks may search in. Verdicts are in float32 always."""

FROM_PYTHON = "python:"
"""Before the type of an object that was given in place of a name, and that no record can hold."""

PositiveInt: TypeAlias = Annotated[int, at_least(1)]


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated besides the source, and how. Every field is a flag of ``headstart evaluate``.

    Attributes:
        suite: see ``headstart list suites``; default standard, for sweep pgd, for compare as recorded or quick.
        data: test images, see ``headstart list datasets``; default what the weights were trained on.
        image_size: cut the centre out of images of mixed sizes and resize it; default as trained.
        image_column: of parquet and hub sets, where it cannot be found.
        label_column: of parquet and hub sets, where it cannot be found.
        n: only the first n test images; default all.
        epsilon: pixel fraction such as 8/255; default what the weights were trained with.
        norm: linf or l2; default what the weights were trained with.
        model: network of a plain state dict.
        model_args: arguments of that network.
        batch_size: images attacked at once, at most; default 1000 on CUDA and 250 elsewhere.
        device: auto, cpu, cuda, or one of several as in cuda:1.
        devices: processes that share the work, each on a device of its own or on a part of the cores.
        seed: of all random numbers.
        search_precision: of the attacks, fp32, tf32 or bf16; auto takes bf16 where it is fast and a pilot on the first
            images loses nothing by it. Verdicts are fp32 always.
        transfer_from: second network for suite full, of the same classes.

    Raises:
        SettingError: a value of another type, or one that is not allowed.
    """

    suite: str = "standard"
    data: str | None = None
    image_size: PositiveInt | None = None
    image_column: str | None = None
    label_column: str | None = None
    n: int | None = None
    epsilon: float | str | None = None
    norm: str | None = None
    model: str | None = None
    model_args: dict[str, Any] | None = None
    batch_size: PositiveInt | None = None
    device: str = "auto"
    devices: PositiveInt = 1
    seed: int = 0
    search_precision: str = "auto"
    transfer_from: str | None = None

    def __post_init__(self) -> None:
        if self.epsilon is not None:
            object.__setattr__(self, "epsilon", pixel_fraction(self.epsilon))
        check_fields(self, skip=("epsilon",))
        if self.search_precision not in SEARCH_PRECISIONS:
            raise unknown("search_precision", self.search_precision, SEARCH_PRECISIONS)


FIELDS = tuple(field.name for field in dataclasses.fields(EvaluationSettings))
NOT_SWEPT = ("devices", "search_precision", "transfer_from")
"""Settings that ``sweep`` does without."""
NOT_INSPECTED = ("suite", "n", *NOT_SWEPT)
"""Settings that ``inspect`` does without."""


def settings_from(fields: dict[str, Any], **given: Any) -> EvaluationSettings:
    """The settings with these values.

    Args:
        given: data and networks, which may be objects; None is left out. The settings hold what ``named`` calls them.

    Raises:
        SettingError: a name that is no setting, or see ``EvaluationSettings``.
    """
    for name in fields:
        if name not in FIELDS:
            raise unknown("setting of an evaluation", name, FIELDS)
    return EvaluationSettings(**fields | {name: named(value) for name, value in given.items() if value is not None})


def named(given: object) -> str:
    """What a record calls a source: names and paths as they are, objects from Python by their type."""
    return str(given) if isinstance(given, (str, Path)) else f"{FROM_PYTHON}{type(given).__name__}"
