"""What is looked at before hours go into training: the classes of both splits, and the images of the test split."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from headstart.data.decode import decode, decode_centres
from headstart.data.encoded import EncodedSet
from headstart.data.images import ImageSet, NoSuchSplit, Unlabelled, numbered
from headstart.data.loading import Found, TrainingSet
from headstart.data.sources import find
from headstart.errors import DataError

LOG = logging.getLogger(__name__)

LOOKED_AT = 1000
"""Test images that are decoded where they are to be cropped: of large sets, others may be broken."""


def find_both(
    name: str, image_column: str | None = None, label_column: str | None = None
) -> tuple[Found, Found | None]:
    """The training and the test split of a data set by name; of the latter None, and a warning, where there is none.

    Raises:
        UserError: see ``find``.
    """
    train = find(name, "train", image_column, label_column)
    try:
        return train, find(name, "test", image_column, label_column)
    except (NoSuchSplit, Unlabelled) as error:
        LOG.warning("%s; training needs no test images, but evaluating will: name them with data then", error)
        return train, None


def check_classes(train: Found, test: Found | None = None) -> None:
    """Refuse splits that are not of the same classes, each with images in both.

    Raises:
        DataError: a split is so, or there are fewer than two classes.
    """
    _check_counts(train.labels, train.classes, train.name)
    if test is None:
        return
    _check_names(train, test)
    if (k := int(test.labels.max())) >= len(train.classes):
        raise DataError(
            f"{test.name} has the label {k}, but {train.name} has 0 to {len(train.classes) - 1} only; remove its images"
        )
    _check_every_class(test.labels, train.classes, test.name)


def check_part(part: TrainingSet, test: tuple[int, int, int] | None = None) -> None:
    """Refuse a training part of a single class, as the first images of a sorted set are, or grey for colour tests.

    Args:
        test: shape (C, H, W) of the test images.
    """
    labels = part.labels if isinstance(part, ImageSet) else part.encoded.labels[part.rows]
    if int(labels.min()) == int(labels.max()):
        raise DataError(
            f"{part.name}: its {len(labels)} images are all of class {part.classes[int(labels[0])]!r}; a classifier "
            "needs two classes or more: take more samples, or shuffle the set"
        )
    if test is not None and part.shape[0] == 1 and test[0] == 3:
        raise DataError(f"{part.name} is grey, but the test images are in colour; give both splits images of one kind")


def check_images(test: Found, image_size: int | None) -> tuple[int, int, int]:
    """Decode test images as evaluation will; the shape (C, H, W) that they get.

    All of them where they stay at their own size: what is decoded is kept on disk for the evaluation. Where they are
    cropped, ``LOOKED_AT`` of them.

    Raises:
        UserError: one cannot be read, or they differ in size.
    """
    if isinstance(test, ImageSet):
        return test.shape
    return (decode(test) if image_size is None else decode_centres(test, _some(test), image_size)).shape


def _check_counts(labels: Tensor, classes: tuple[str, ...], name: str) -> None:
    if int(labels.min()) == int(labels.max()):
        only = classes[int(labels[0])]
        raise DataError(f"{name}: all images are of class {only!r}; a classifier needs images of two classes or more")
    _check_every_class(labels, classes, name)


def _check_every_class(labels: Tensor, classes: tuple[str, ...], name: str) -> None:
    empty = (torch.bincount(labels, minlength=len(classes)) == 0).nonzero().squeeze(1).tolist()
    if empty:
        which = f"class {classes[empty[0]]!r}" + (f" and {len(empty) - 1} more" if len(empty) > 1 else "")
        remedy = "add some, or remove the class from both splits"
        if classes == numbered(torch.tensor([len(classes) - 1])):
            remedy = "add some, or number the classes 0, 1, 2, ... without gaps"
        raise DataError(f"{name} has no image of {which} (of {len(classes)}); {remedy}")


def _check_names(train: Found, test: Found) -> None:
    """Refuse splits that name their classes differently; numbers are no names."""
    if train.classes == test.classes or numbered(test.labels) == test.classes:
        return
    known, named = set(train.classes), set(test.classes)
    if extra := [c for c in test.classes if c not in known]:
        what, remedy = f"the class {extra[0]!r}, which {train.name} does not have", "remove it, or train on it too"
    elif lost := [c for c in train.classes if c not in named]:
        what, remedy = f"no class {lost[0]!r}, which {train.name} has", "add it, or remove it from both splits"
    else:
        what, remedy = f"its classes in another order than {train.name}", "name them in the same order"
    raise DataError(f"{test.name} has {what}; {remedy}")


def _some(data: EncodedSet) -> Tensor:
    """Some rows, spread over the set; of tables those of a few row groups, since each is read as a whole."""
    if len(data) <= LOOKED_AT:
        return torch.arange(len(data))
    if data.groups is None:
        return torch.linspace(0, len(data) - 1, LOOKED_AT).long()
    groups = int(data.groups.max()) + 1
    chosen = torch.linspace(0, groups - 1, max(1, LOOKED_AT * groups // len(data))).long()
    return torch.isin(data.groups, chosen).nonzero().squeeze(1)[:LOOKED_AT]
