"""What a trained method does to images, for the demo to show."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from headstart.core import Clock, Method, Step, Target, TaskInfo
from headstart.core.threat import ThreatModel
from headstart.data import load
from headstart.methods.registry import build_method
from headstart.models import build_model
from headstart.recipes.recipe import Recipe
from headstart.runs.checkpoint import load_state
from headstart.runs.folder import RunFolder

SAMPLES = 6


def sample_perturbations(recipe: Recipe, run: RunFolder) -> dict[str, Any]:
    """What the method does at the end of training to the first test images: delta0, delta, prediction."""
    method, network, step = end_of_training(recipe, run)
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(recipe.seed)
    method.perturb(Target(network), step)
    network.load_state_dict(trained)  # the method's own passes moved batch-norm statistics
    assert step.delta is not None
    adversarial = (step.x + step.delta.detach()).clamp(0, 1)
    with torch.no_grad():
        predictions = network.eval()(adversarial).argmax(1)
    return {
        "images": _shown(step.x),
        "labels": step.y[:SAMPLES].tolist(),
        "classes": list(load(recipe.data, "test").classes),
        "initial": None if step.delta0 is None else _shown(step.delta0),
        "final": _shown(step.delta),
        "adversarial": _shown(adversarial),
        "predictions": predictions[:SAMPLES].tolist(),
    }


def end_of_training(recipe: Recipe, run: RunFolder) -> tuple[Method, nn.Module, Step]:
    """Method and network as the run left them, and an update on the first test images that is yet to be made."""
    state = load_state(run.last)
    test = load(recipe.data, "test")
    x, y = (rows[: recipe.batch_size] for rows in test.tensors())
    threat = ThreatModel(cast(float, recipe.epsilon), recipe.norm)
    clock = Clock(**(state["clock"] | {"batch": 1}))  # between two updates of the generator
    info = TaskInfo(len(test.classes), test.shape, threat, len(test), len(x), clock.updates, clock.epochs)
    method = build_method(recipe.method, info, recipe.method_args)
    method.load_state_dict(state["method"])
    network = build_model(recipe.model, len(test.classes), test.shape[0], recipe.model_args)
    network.load_state_dict(state["network"])
    return method, network, Step(x.float() / 255, y, threat, clock)


def _shown(tensor: Tensor) -> Any:
    """The first images, (SAMPLES, H, W), as lists."""
    return tensor[:SAMPLES, 0].detach().tolist()
