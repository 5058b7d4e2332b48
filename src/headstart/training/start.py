"""The network that a training starts with."""

from __future__ import annotations

import logging
from dataclasses import replace

from torch import nn

from headstart.data import ImageSet, TrainingSet
from headstart.errors import WeightsError
from headstart.models import build_model, normalization_of, normalized, without_fetching
from headstart.models.weights import agree, in_words, load_into
from headstart.recipes.recipe import Recipe
from headstart.runs.classifier import read_weights

log = logging.getLogger(__name__)

SHOWN = 5000  # images from which a network may take its first weights


def network_for(
    recipe: Recipe, network: nn.Module | None, data: TrainingSet, held_out: ImageSet, *, resumed: bool
) -> tuple[Recipe, nn.Module]:
    """The network of a recipe, and that recipe, resolved; see ``start_from`` where the recipe begins with weights.

    A fresh network by name that has a method ``initialise_from`` is shown ``SHOWN`` images, (B, C, H, W) in [0, 1]: of
    the training part, or of the other where that is streamed. What it makes of them belongs into its state dict.

    Args:
        network: default the recipe's by name.
        held_out: the validation part.
        resumed: its weights will be those of a checkpoint.
    """
    classes, channels = len(data.classes), data.shape[0]
    if recipe.weights is not None and not resumed:
        return start_from(recipe, network, classes, channels)
    if network is None:
        args = without_fetching(recipe.model, recipe.model_args) if resumed else recipe.model_args
        network = build_model(recipe.model, classes, channels, args)
        if callable(initialise := getattr(network, "initialise_from", None)) and not resumed:
            shown = data if isinstance(data, ImageSet) else held_out
            initialise(shown.tensors()[0][:SHOWN].float() / 255)
    return recipe, network


def start_from(recipe: Recipe, network: nn.Module | None, classes: int, channels: int) -> tuple[Recipe, nn.Module]:
    """The network of a recipe that begins with the weights of a file, and that recipe, resolved.

    What the file says of its network (widths, activation, normalisation) holds where the recipe says nothing. The last
    layer keeps its initial values where the class count differs. What was done is logged.

    Args:
        network: default the recipe's by name.

    Raises:
        WeightsError: see ``read_weights`` and ``load_into``.
    """
    weights = read_weights(str(recipe.weights))
    given = network is not None
    if network is None:
        if weights.origin.get("model") == recipe.model:
            recipe = replace(recipe, model_args={**weights.model_args, **recipe.model_args})
        network = build_model(recipe.model, classes, channels, without_fetching(recipe.model, recipe.model_args))
    found = load_into(network, weights, recipe.model, new_head=True)
    done = [f"starting from {weights.name}"]
    if found.old_classes is not None:
        done.append(f"a new last layer for {classes} classes (the file has {found.old_classes})")
    if given and found.normalization and not agree(found.normalization, normalization_of(network)):
        raise WeightsError(
            f"{weights.name} carries {in_words(found.normalization)}; "
            "give a network that has it: headstart.models.normalized(network, mean, std)"
        )
    if not given and found.normalization and not {"mean", "std"} & recipe.model_args.keys():
        normalized(network, **found.normalization)
        recipe = replace(recipe, model_args={**recipe.model_args, **found.normalization})
        done.append(f"its {in_words(found.normalization)} as the network's first layer")
    log.info("%s", "; ".join(done))
    return recipe, network
