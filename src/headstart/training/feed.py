"""What a recipe trains on: the two parts of its data, and the batches of a process."""

from __future__ import annotations

import logging

import torch

from headstart.data import Found, ImageSet, Loader, TrainingSet, divided, make_loader
from headstart.data.check import check_classes, check_images, check_part, find_both
from headstart.data.loading import default_workers
from headstart.recipes.recipe import Recipe

log = logging.getLogger(__name__)


def load_parts(recipe: Recipe, data: Found | None = None) -> tuple[TrainingSet, ImageSet]:
    """The training part and the validation part of the recipe's data, or of ``data``; see ``divided``.

    Both splits are looked at, so that evaluation does not find after the training what is wrong with them.

    Raises:
        UserError: see ``headstart.data.check``, ``find`` and ``divided``.
    """
    test = None
    if data is None:
        data, test = find_both(recipe.data, recipe.image_column, recipe.label_column)
    check_classes(data, test)
    shape = None if test is None else check_images(test, recipe.image_size)
    train_part, val_part = divided(
        data,
        recipe.val_size,
        samples=recipe.samples,
        image_size=recipe.image_size,
        on_bad_image=recipe.on_bad_image,
        which=recipe.validation,
    )
    check_part(train_part, shape)
    return train_part, val_part


def batches(data: TrainingSet, recipe: Recipe, device: torch.device, rank: int, world_size: int) -> Loader:
    """The batches of one process; see ``make_loader``."""
    loader = make_loader(
        data,
        batch_size=recipe.batch_size,
        device=device,
        seed=recipe.seed,
        pad=recipe.pad,
        drop_last=recipe.drop_last,
        workers=recipe.workers if recipe.workers is not None else default_workers(recipe.devices),
        rank=rank,
        world_size=world_size,
    )
    if loader.batches and recipe.batch_size > loader.samples * world_size:
        log.warning(
            "batch_size %d exceeds the %d training images; an epoch is one update", recipe.batch_size, len(data)
        )
    return loader


def announce(recipe: Recipe, train: TrainingSet, val: ImageSet) -> None:
    """Say how many images there are of what."""
    sizes = f"{len(train)} images to train on, {len(val)} to choose the checkpoint by"
    log.info("%s: %s, %d classes", recipe.data, sizes, len(train.classes))
