"""Recipes: everything a training run depends on, as one flat, validated record."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import yaml

from headstart.errors import UserError, unknown

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["one-cycle", "triangular", "multi-step", "constant"]
Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
OnCollapse = Literal["warn", "stop", "rollback"]
OnBadImage = Literal["error", "skip"]
BatchNormMode = Literal["train", "train-frozen-stats", "eval"]
YAML = (".yaml", ".yml")
LARGEST_SEED = 2**32 - 1
KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "keys and values such as {alpha: 0.1}",
    list: "a list of whole numbers such as [100, 105]",
}


@dataclass(frozen=True)
class Recipe:
    """The full settings of a run. Every field is a key of a recipe file and a flag of ``headstart train``.

    Attributes:
        data: data set, see ``headstart list datasets``.
        image_column: column of parquet and hub sets that holds the images; null finds it.
        label_column: column of parquet and hub sets that holds the labels; null finds it.
        image_size: pixels to which random crops of mixed photographs are resized; null takes images of one size as is.
        model: network, see ``headstart list models``, or module:callable.
        model_args: further arguments of the network.
        weights: start from a weights file, a run folder or hub:OWNER/NAME; null for fresh weights.
        method: training method, see ``headstart list methods``.
        method_args: settings of the method.
        norm: norm of the threat model, linf or l2.
        epsilon: perturbation budget in pixel fractions; may be written 8/255.
        epsilon_ramp: share of the run over which epsilon rises linearly from 0.
        epochs: passes over the training part.
        max_steps: stop after so many weight updates; schedules still follow the full length.
        batch_size: samples per update over all processes.
        accumulate: equal parts in which a process takes its share of a batch, one after the other, to save memory.
        drop_last: leave out the incomplete last batch of an epoch.
        pad: random crop shift in pixels, with a random flip; 0 for no augmentation. Without effect beside image_size.
        samples: train on the first so many images alone, the validation part among them; null for all.
        val_size: images held out of the training set for choosing the checkpoint.
        optimizer: sgd, adam or adamw.
        lr: peak learning rate.
        momentum: of SGD.
        weight_decay: on every parameter.
        schedule: learning rate over the run, stepped at every update.
        peak: share of the run at which one-cycle and triangular reach the peak.
        milestones: epochs at which multi-step multiplies the rate by 0.1.
        clip_gradient: largest gradient norm of an update; 0 for none.
        average: decay of the weight average per update (with warm-up); 0 for none.
        ascent_batch_norm: batch-norm in ascent passes whose method does not name a mode.
        precision: fp32, or bf16 for bfloat16 autocast around the network.
        compile: compile the network with torch.compile.
        cuda_graphs: on one CUDA device, record updates and replay them where the method allows it.
        seed: of initial weights, order, augmentation and every random start.
        device: auto takes CUDA where there is one.
        devices: processes on this node; torchrun and SLURM say it themselves.
        num_nodes: nodes; torchrun and SLURM say it themselves.
        sync_batch_norm: batch statistics over all processes (CUDA only) instead of each process's own.
        deterministic: only algorithms that give the same result every time; slower on CUDA.
        workers: processes per device that decode images where image_size is given; null for one per core.
        eval_every: epochs between validations.
        checkpoint_every: updates between checkpoints; 0 for at the end of epochs only.
        keep: how many epoch checkpoints to keep beside last and best; 0 for none.
        on_collapse: on catastrophic overfitting go on, stop, or go back to the last sound state with safer steps.
        watch_every: batches between looks for a collapse inside an epoch, for stop and rollback; 0 for none.
        on_bad_image: stop at an unreadable image, or leave it out and say how many.
    """

    data: str = "digits"
    image_column: str | None = None
    label_column: str | None = None
    image_size: int | None = None
    model: str = "resnet18"
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    method: str = "fgsm-sdi"
    method_args: dict[str, Any] = field(default_factory=dict)
    norm: str = "linf"
    epsilon: float | str = "8/255"
    epsilon_ramp: float = 0.0
    epochs: int = 30
    max_steps: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    drop_last: bool = False
    pad: int = 4
    samples: int | None = None
    val_size: int = 1000
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "one-cycle"
    peak: float = 0.3
    milestones: list[int] = field(default_factory=list)
    clip_gradient: float = 0.0
    average: float = 0.0
    ascent_batch_norm: BatchNormMode = "train"
    precision: Precision = "fp32"
    compile: bool = False
    cuda_graphs: bool = True
    seed: int = 0
    device: Device = "auto"
    devices: int = 1
    num_nodes: int = 1
    sync_batch_norm: bool = False
    deterministic: bool = False
    workers: int | None = None
    eval_every: int = 1
    checkpoint_every: int = 0
    keep: int = 0
    on_collapse: OnCollapse = "warn"
    watch_every: int = 200
    on_bad_image: OnBadImage = "error"

    def __post_init__(self) -> None:
        from headstart.threat import ThreatModel  # here, since reading the fields must not take loading torch

        object.__setattr__(self, "epsilon", pixel_fraction(self.epsilon))
        for name, hint in get_type_hints(Recipe).items():
            if name != "epsilon":
                object.__setattr__(self, name, _typed(name, getattr(self, name), hint))
        ThreatModel(cast(float, self.epsilon), self.norm)
        ones = ("epochs", "batch_size", "accumulate", "devices", "num_nodes", "val_size", "eval_every")
        at_least = dict.fromkeys(ones, 1)
        at_least |= dict.fromkeys(("pad", "checkpoint_every", "keep", "seed", "watch_every"), 0)
        at_least |= dict.fromkeys(("momentum", "weight_decay", "clip_gradient"), 0)
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("epsilon_ramp", "average", "peak"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.seed > LARGEST_SEED:
            raise UserError(f"seed is {self.seed}; it must be at most {LARGEST_SEED}")
        if self.lr <= 0:
            raise UserError(f"lr is {self.lr}; it must be above 0")
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"image_size is {self.image_size}; it must be at least 1 pixel, or null")
        if self.workers is not None and self.workers < 0:
            raise UserError(f"workers is {self.workers}; it must be at least 0, or null")
        for name in ("max_steps", "samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if early := [m for m in self.milestones if m < 1]:
            raise UserError(f"milestone {early[0]} is not an epoch; milestones count from 1")
        if self.schedule == "multi-step" and not self.milestones:
            raise UserError("schedule multi-step needs milestones, a list of epochs such as [100, 105]")
        processes = self.devices * self.num_nodes
        if self.batch_size % processes:
            raise UserError(f"batch_size {self.batch_size} does not divide among {processes} processes")
        if self.batch_size // processes % self.accumulate:
            raise UserError(
                f"accumulate is {self.accumulate}; it must divide the {self.batch_size // processes} samples that each "
                "process has of a batch"
            )


def describe(hint: Any) -> str:
    """What a value of this type looks like, in words."""
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    return KINDS.get(get_origin(hint) or hint, "text")


def _without_none(hint: Any) -> Any:
    """X for the type X | None; other types as they are."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) and len(kinds) == 1 else hint


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value of a field, checked; numbers that YAML takes for text (1e-3) become numbers.

    Raises:
        UserError: not of that type, not finite, or not among the choices.
    """
    if value is None and type(None) in get_args(hint):
        return None
    hint = _without_none(hint)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(f"value of {name}:", str(value), get_args(hint))
        return value
    kind = get_origin(hint) or hint
    if kind is list and isinstance(value, tuple):
        value = list(value)
    if kind is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            value = float(value)
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    fits &= kind is not float or (fits and math.isfinite(value))
    fits &= kind is not list or (fits and all(type(item) is int for item in value))
    if not fits:
        raise UserError(f"{name} is {value!r}; it must be {describe(hint)}")
    return value


def pixel_fraction(value: float | str) -> float:
    """A number, or a fraction written like 8/255; whether it can be an epsilon is for ``ThreatModel`` to say.

    Raises:
        UserError: not a number.
    """
    try:
        return float(Fraction(value.replace(" ", ""))) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"epsilon is {value!r}; write a pixel fraction such as 8/255 or 0.03") from error


def recipe_names() -> dict[str, str]:
    """Built-in recipes, DATASET/METHOD, each with a one-line summary."""
    from headstart.registry import methods

    names: dict[str, str] = {}
    for dataset, book in _books().items():
        names |= {f"{dataset}/{m}": f"{e.summary} On {book['summary']}." for m, e in methods().items()}
    return names


def load_recipe(name: str, **overrides: Any) -> Recipe:
    """A built-in recipe (DATASET/METHOD) or a YAML file, with fields overridden.

    A file may start from another recipe with the key ``recipe``. ``method_args`` and ``model_args`` are merged key
    by key; settings of the method that the recipe was written for are dropped when the method is overridden.

    Raises:
        UserError: unknown recipe or key, unreadable file, or an invalid value.
    """
    for key in overrides:
        if key not in Recipe.__dataclass_fields__:
            raise unknown("recipe field", key, Recipe.__dataclass_fields__)
    return Recipe(**changed(name, overrides))


def changed(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe with ``changes``; another method drops the settings that were written for the first."""
    fields = recipe_fields(name)
    if changes.get("method", fields.get("method")) != fields.get("method"):
        fields["method_args"] = {}
        if Path(name).suffix not in YAML:
            fields = recipe_fields(f"{name.split('/')[0]}/{changes['method']}")
    return merge(fields, changes)


def recipe_fields(name: str) -> dict[str, Any]:
    """The fields that a recipe sets, by name or from a YAML file."""
    if Path(name).suffix in YAML:
        return _from_file(Path(name))
    books = _books()
    dataset, _, method = name.partition("/")
    if dataset not in books or not method:
        raise unknown("recipe", name, [f"{book}/{method or 'METHOD'}" for book in books])
    from headstart.registry import methods

    if method not in methods():
        raise unknown("recipe", name, [f"{dataset}/{m}" for m in methods()])
    return merge(merge(_base(dataset, books), {"method": method}), _changes(dataset, method, books))


def every_recipe(dataset: str) -> list[str]:
    """The recipes of all methods on a data set, without methods that are another by a second name.

    Raises:
        UserError: no recipes are known for that name.
    """
    from headstart.registry import methods

    if dataset not in (books := _books()):
        raise unknown("data set with recipes", dataset, books)
    return [f"{dataset}/{name}" for name, entry in methods().items() if entry.same_as is None]


def _base(dataset: str, books: dict[str, Any]) -> dict[str, Any]:
    """What all methods share on a data set: its base over that of the set it is like."""
    book = books[dataset]
    return merge(_base(book["like"], books), book["base"]) if "like" in book else dict(book["base"])


def _changes(dataset: str, method: str, books: dict[str, Any]) -> dict[str, Any]:
    """What a method changes on a data set, over what it changes on the set it is like."""
    book = books[dataset]
    changes = book.get("methods", {}).get(method, {})
    return merge(_changes(book["like"], method, books), changes) if "like" in book else changes


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``; the two dictionaries of arguments are merged key by key."""
    merged = base | changes
    for key in ("method_args", "model_args"):
        if key in base or key in changes:
            parts = [source.get(key) or {} for source in (base, changes)]
            if wrong := [part for part in parts if not isinstance(part, dict)]:
                raise UserError(f"{key} is {wrong[0]!r}; it must be {KINDS[dict]}")
            merged[key] = parts[0] | parts[1]
    return merged


def save_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved recipe as YAML, readable by ``load_recipe``."""
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False))


def _books() -> dict[str, Any]:
    """The recipe files of the package: one per data set, a base and what each method changes, or the set it is like."""
    folder = resources.files("headstart") / "recipes"
    files = [f for f in folder.iterdir() if f.name.endswith(".yaml")]
    return {f.name.removesuffix(".yaml"): yaml.safe_load(f.read_text()) for f in sorted(files, key=lambda f: f.name)}


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"recipe file {path} does not exist; headstart list recipes shows the built-in ones")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe file {path} must hold keys and values; see the built-in recipes")
    for key in content:
        if key not in Recipe.__dataclass_fields__ and key != "recipe":
            raise unknown(f"key in {path}:", str(key), [*Recipe.__dataclass_fields__, "recipe"])
    base = content.pop("recipe", None)
    return changed(str(base), content) if base else content
