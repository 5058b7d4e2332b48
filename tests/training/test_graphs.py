"""An update that is recorded and replayed is the update: same weights, same counts, whatever moves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from headstart.errors import SettingError
from headstart.models.weights import read_file
from headstart.training.graphs import EAGER_UPDATES
from headstart.training.learner import Learner
from headstart.training.train import train
from tests.cuda_graphs import Recorder
from tests.training.runs import BATCHES, Plain, tiny

RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum that follows the rate": {"schedule": "one-cycle", "cycle_momentum": True, "schedule_by": "epoch"},
    "adam": {"optimizer": "adam", "lr": 1e-3},
    "adamw, clipped": {"optimizer": "adamw", "lr": 1e-3, "clip_gradient": 1.0},
    "muon": {"optimizer": "muon"},
    "rates by depth": {"layer_decay": 0.5},
    "rates by depth, adamw": {"optimizer": "adamw", "lr": 1e-3, "layer_decay": 0.5},
    "rates by depth, muon": {"optimizer": "muon", "layer_decay": 0.5},
    "frozen": {"freeze": ["conv1"], "freeze_batch_norm": True},
    "average": {"average": 0.9},
    "epsilon rises": {"epsilon_ramp": 0.99},
    "a smaller last batch": {"batch_size": 30},
    "bfloat16": {"precision": "bf16"},
    "a generator": {"method": "fgsm-sdi"},
    "a generator, bfloat16, epsilon rises": {"method": "fgsm-sdi", "precision": "bf16", "epsilon_ramp": 0.99},
}


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs where the recipe says so, and not only on a GPU."""
    monkeypatch.setattr(Learner, "graphed", property(lambda self: self.recipe.cuda_graphs))


@pytest.mark.usefixtures("graphed")
@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_replayed_training_ends_in_the_same_weights(
    changes: dict[str, Any],
    tmp_path: Path,
    recorder: Recorder,
) -> None:
    weights, passes = [], []
    for cuda_graphs in (False, True):
        fields = {"device": "cpu", "samples": 64 * BATCHES, "batch_size": 32, "cuda_graphs": cuda_graphs, **changes}
        run = train(tiny(**fields), tmp_path / str(cuda_graphs), progress=False)
        weights.append(read_file(run.out / "model-last.safetensors").tensors)
        passes.append({name: run.cost[name] for name in ("forwards", "input_gradients", "backwards", "updates")})
    assert 0 < recorder.recorded < recorder.replayed <= passes[0]["updates"] - EAGER_UPDATES
    assert passes[0] == passes[1]
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)  # Adam's rate is a float32 in a recording


class Curious(Plain):
    """A network that looks at what it computes."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if logits.isfinite().all() else logits.nan_to_num()


@pytest.mark.usefixtures("graphed", "recorder")
def test_a_network_that_cannot_be_recorded_is_named_with_a_remedy(tmp_path: Path) -> None:
    recipe = tiny(device="cpu", cuda_graphs=True)
    with pytest.raises(SettingError, match=r"^cuda_graphs: this update cannot be recorded \(.*\); set it to false$"):
        train(recipe, tmp_path / "run", model=Curious(), progress=False)
    train(replace(recipe, cuda_graphs=False, max_steps=5), tmp_path / "again", model=Curious(), progress=False)
