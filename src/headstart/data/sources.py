"""Where images come from: the names that the command line and recipes use, and where each looks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from headstart.data.encoded import ArrowSet, EncodedSet, FolderSet, ParquetSet, images_below
from headstart.data.images import ImageSet, NoSuchSplit, Unlabelled
from headstart.errors import DataError, SettingError, extra, unknown

Split = Literal["train", "test"]

SOURCES = {
    "digits": "1,797 grey 8x8 digits that ship with scikit-learn, for the demo",
    "cifar10": "CIFAR-10, from $HEADSTART_DATA/cifar10 or the hub (uoft-cs/cifar10)",
    "cifar100": "CIFAR-100, from $HEADSTART_DATA/cifar100 or the hub (uoft-cs/cifar100)",
    "tiny-imagenet": "Tiny ImageNet, from $HEADSTART_DATA/tiny-imagenet or the hub (zh-plus/tiny-imagenet)",
    "imagenet": "ImageNet-1k, from $HEADSTART_DATA/imagenet or the hub (ILSVRC/imagenet-1k, on request)",
    "parquet:PATH": "a folder of train*.parquet and test*.parquet or val*.parquet with an image and a label column",
    "folder:PATH": "a folder of train/CLASS/IMAGE and test/CLASS/IMAGE or val/CLASS/IMAGE",
    "hub:OWNER/NAME": "a data set of the Hugging Face hub with an image and a label column",
}
HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
    "imagenet": "ILSVRC/imagenet-1k",
}
# The first that is there and has labels; published test sets, such as ImageNet's, may have none.
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation", "valid", "val")}


def find(
    name: str, split: Split, image_column: str | None = None, label_column: str | None = None
) -> ImageSet | EncodedSet:
    """One split of a data set by name; its images are decoded by whoever needs them.

    Args:
        image_column, label_column: of parquet and hub sets; found where there is only one that fits.

    Raises:
        SettingError: no such name or column.
        DataError: no such path or split, an empty class, or labels outside the classes.
    """
    kind, _, rest = name.partition(":")
    if name == "digits":
        return _digits(split)
    if kind == "parquet" and rest:
        return _parquet(Path(rest), split, image_column, label_column)
    if kind == "folder" and rest:
        return _folder(Path(rest), split)
    if kind == "hub" and rest:
        return _hub(rest, split, image_column, label_column)
    if name not in HUB:
        raise _not_a_name(name)
    local = Path(os.environ.get("HEADSTART_DATA", "")) / name
    if "HEADSTART_DATA" not in os.environ or not local.is_dir():
        return _hub(HUB[name], split, image_column, label_column)
    if any(local.rglob("*.parquet")):
        return _parquet(local, split, image_column, label_column)
    return _folder(local, split)


def _not_a_name(name: str) -> SettingError:
    """The error for what is neither a data set's name nor a source and a path."""
    path = Path(name)
    if not path.is_dir() and path.name == name:
        return unknown("data set", name, SOURCES)
    tables = path.is_dir() and any(path.rglob("*.parquet"))
    given = f"parquet:{name}" if tables else f"folder:{name}" if path.is_dir() else f"folder:{name} or parquet:{name}"
    return SettingError(f"data {name!r} is a path; say what it holds: {given}")


def _digits(split: Split) -> ImageSet:
    """1,297 training and 500 test images, split by a fixed permutation; 17 grey levels become 0 to 255."""
    with extra("data"):
        from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.as_tensor(digits.images / 16 * 255).round().to(torch.uint8).unsqueeze(-1)
    labels = torch.as_tensor(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows = order[500:] if split == "train" else order[:500]
    return ImageSet(images[rows], labels[rows], tuple("0123456789"), f"digits ({split})")


# -- parquet ----------------------------------------------------------------------------------------------------------


def _parquet(folder: Path, split: Split, image_column: str | None, label_column: str | None) -> EncodedSet:
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give parquet:PATH of a folder with train*.parquet")
    found = {prefix: sorted(folder.rglob(f"{prefix}*.parquet")) for prefix in SPLIT_NAMES[split]}
    if not any(found.values()):
        wanted = "train*.parquet" if split == "train" else "test*.parquet or val*.parquet"
        raise NoSuchSplit(f"{folder} has no {wanted}; it holds {_content(folder)}")
    name = f"{folder.resolve().name} ({split})"
    return _first_labelled(
        partial(ParquetSet, files, name, image_column, label_column) for files in found.values() if files
    )


# -- folders ----------------------------------------------------------------------------------------------------------


def _folder(folder: Path, split: Split) -> FolderSet:
    """Images by class, in a fixed random order, so that the first n are not all of one class."""
    if not folder.is_dir():
        raise DataError(f"data folder {folder} does not exist; give folder:PATH of a folder with train/CLASS/IMAGE")
    part = next((p for p in SPLIT_NAMES[split] if (folder / p).is_dir()), None)
    if part is None:
        wanted = " or ".join(f"{p}/CLASS/IMAGE" for p in (("train",) if split == "train" else ("test", "val")))
        raise NoSuchSplit(f"{folder} has no {wanted}; it holds {_content(folder)}")
    classes = _class_names(folder / "train") if (folder / "train").is_dir() else _class_names(folder / part)
    annotations = folder / "val" / "val_annotations.txt"
    if split == "test" and annotations.is_file():
        paths, labels = _annotated(annotations, classes)
    else:
        paths, labels = _by_class(folder / part, classes)
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    below = [os.path.relpath(paths[i], folder) for i in order]
    return FolderSet(folder, below, [labels[i] for i in order], classes, f"{folder.resolve().name} ({split})")


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")))
    if not names:
        raise DataError(f"{folder} has no class folders; put the images of each class into a folder of its own")
    return names


def _by_class(folder: Path, classes: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """Paths of all images below the class folders, and their classes."""
    paths: list[str] = []
    labels: list[int] = []
    for name in _class_names(folder):
        if name not in classes:
            raise DataError(
                f"{folder} has the class {name!r}, which train does not have; remove it, or train on it too"
            )
        found = images_below(folder / name)
        if not found:
            raise DataError(f"class folder {folder / name} holds no images; fill or remove it")
        paths += [str(folder / name / path) for path in found]
        labels += [classes.index(name)] * len(found)
    return paths, labels


def _annotated(annotations: Path, classes: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """The validation images of Tiny ImageNet as published: val/images/FILE, and lines of FILE, class and a box."""
    paths, labels = [], []
    images = annotations.parent / "images"
    there = set(os.listdir(images)) if images.is_dir() else set()
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        file, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in classes:
            raise DataError(f"{annotations}, line {number}: class {wnid!r} is not a folder of train")
        if file not in there:
            raise DataError(f"{annotations}, line {number}: {images / file} does not exist; unpack the set anew")
        paths.append(str(images / file))
        labels.append(classes.index(wnid))
    return paths, labels


def _content(folder: Path) -> str:
    """The first few names in a folder, for messages."""
    return ", ".join(sorted(f.name for f in folder.iterdir())[:5]) or "nothing"


# -- the hub ----------------------------------------------------------------------------------------------------------


def _hub(hub_id: str, split: Split, image_column: str | None, label_column: str | None) -> EncodedSet:
    def open_split(part: str) -> EncodedSet:
        return ArrowSet(_load_hub(hub_id, part), f"{hub_id} ({split})", image_column, label_column)

    return _first_labelled(partial(open_split, part) for part in SPLIT_NAMES[split])


def _load_hub(hub_id: str, part: str) -> Any:
    """A split of a hub set, from the hub or from what ``datasets`` kept of it on disk."""
    with extra("data"):
        import datasets

    try:
        return datasets.load_dataset(hub_id, split=part)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = str(error).splitlines()[0]
        if "unknown split" in reason.lower():
            raise NoSuchSplit(f"{hub_id} has no split for this: {reason}") from error
        if "gated" in reason.lower():
            raise DataError(
                f"{hub_id} is given on request: accept its terms at https://huggingface.co/datasets/{hub_id}, then log "
                "in with `hf auth login`; or set HEADSTART_DATA to a folder that holds a copy"
            ) from error
        raise DataError(
            f"{hub_id} is neither cached nor reachable ({reason}); "
            "set HEADSTART_DATA to a folder that holds it, or give parquet:PATH or folder:PATH"
        ) from error


def _first_labelled(candidates: Iterable[Callable[[], EncodedSet]]) -> EncodedSet:
    """The first set that is there and has labels; the error of the first where none is."""
    first: DataError | None = None
    for make in candidates:
        try:
            return make()
        except (Unlabelled, NoSuchSplit) as error:
            first = first or error
    assert first is not None
    raise first
