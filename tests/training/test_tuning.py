"""Fine-tuning: what each of its settings does to weights, rates, gradients and memory."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headstart.core import Target
from headstart.core.checkpointing import checkpoint_activations
from headstart.core.layers import blocks, depths
from headstart.data import ImageSet
from headstart.errors import UserError
from headstart.methods.registry import build_method, methods
from headstart.models import build_model
from headstart.training.optim import make_optimizer, make_schedule
from headstart.training.train import train
from headstart.training.tuning import freeze, trained_parameters
from tests.helpers import THREAT, batches, info, run_method
from tests.training.runs import records, tiny

ARGS = {"widths": [4, 8], "blocks": [2, 1]}


def small() -> nn.Module:
    torch.manual_seed(0)
    return build_model("small", 10, 3, ARGS).train()


def equal(one: dict[str, Tensor], other: dict[str, Tensor], *, but: str = "") -> bool:
    """Whether two state dicts are the same bit for bit, in names that begin with nothing of ``but``."""
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items() if not but or not name.startswith(but))


# -- rates by depth ---------------------------------------------------------------------------------------------------


def test_depths_of_a_network_in_blocks() -> None:
    found = depths(small())
    assert list(blocks(small())) == ["layer1.0", "layer1.1", "layer2.0"]
    first = {name.split(".")[0] for name, depth in found.items() if depth == 0}
    assert first == {"conv1", "bn1"}
    assert found["layer1.0.conv1.weight"] == 1
    assert found["layer1.1.conv2.weight"] == 2
    assert {found["linear.weight"], found["linear.bias"]} == {max(found.values())}


class Late(nn.Module):
    """A norm after the blocks, and one weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))
        self.body = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4)), nn.Sequential())
        self.norm, self.classifier = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_what_stands_after_a_block_belongs_to_it() -> None:
    found = depths(Late())
    assert found == {
        "token": 0,
        "body.0.0.weight": 1,
        "body.0.0.bias": 1,
        "body.1.0.weight": 2,
        "body.1.0.bias": 2,
        "norm.weight": 2,
        "norm.bias": 2,
        "classifier.0.weight": 3,
        "classifier.0.bias": 3,
        "classifier.2.weight": 4,
        "classifier.2.bias": 4,
    }


def rates(network: nn.Module, **fields: Any) -> dict[str, float]:
    """The rate of every trained weight, by name."""
    optimizer = make_optimizer(tiny(**fields), network)
    names = {p: name for name, p in network.named_parameters()}
    return {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_the_rate_falls_towards_the_images() -> None:
    found, depth = rates(small(), lr=0.4, layer_decay=0.5), depths(small())
    assert found == {name: 0.4 * 0.5 ** (max(depth.values()) - step) for name, step in depth.items()}
    assert len(set(found.values())) >= 4


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 3}),
        ("convnext_atto", {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]}),
        ("resnet18", {"channels": [8, 8, 8, 8]}),
    ],
)
def test_rates_of_networks_of_timm_are_those_of_timm(name: str, args: dict[str, Any]) -> None:
    network = build_model(f"timm:{name}", 10, args=args)
    from timm.optim import param_groups_layer_decay  # after build_model, which makes torchvision importable

    names = {p: name for name, p in network.named_parameters()}
    theirs = param_groups_layer_decay(network, layer_decay=0.75)
    expected = {names[p]: 0.1 * group["lr_scale"] for group in theirs for p in group["params"]}
    assert rates(network, lr=0.1, layer_decay=0.75) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["one-cycle", "triangular", "multi-step", "constant"])
def test_every_depth_follows_the_schedule(schedule: str) -> None:
    recipe = tiny(lr=0.4, layer_decay=0.5, schedule=schedule, milestones=[1] if schedule == "multi-step" else [])
    optimizer = make_optimizer(recipe, small())
    plain = make_optimizer(tiny(lr=0.4), small())
    first, alone = (make_schedule(recipe, o, 12, 4) for o in (optimizer, plain))
    for _ in range(12):
        used = [group["lr"] for group in optimizer.param_groups]
        assert used[0] == plain.param_groups[0]["lr"], "the first group has the rate of the recipe"
        assert used == pytest.approx([used[0] * 0.5**k for k in range(len(used))])
        for o, s in ((optimizer, first), (plain, alone)):
            o.step()
            s.step()


def test_one_rate_is_one_group_as_ever() -> None:
    network = small()
    assert [id(p) for p in trained_parameters(network, tiny())] == [id(p) for p in network.parameters()]


def test_a_network_of_one_depth_has_no_decay() -> None:
    with pytest.raises(UserError, match=r"layer_decay is 0.5, but the network small has no blocks"):
        make_optimizer(tiny(layer_decay=0.5), nn.Sequential(nn.Linear(2, 2)))


# -- frozen layers ----------------------------------------------------------------------------------------------------


def start(folder: Path, digits: ImageSet, **fields: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a run's network before and after four updates."""
    torch.manual_seed(0)
    network = build_model("small", 10, 1, ARGS)
    before = copy.deepcopy(network.state_dict())
    run = train(tiny(max_steps=4, **fields), folder, data=digits, model=network, progress=False)
    assert run.model is network
    return before, network.state_dict()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_layers_stay_bit_for_bit(optimizer: str, digits: ImageSet, tmp_path: Path) -> None:
    """Weights, and the statistics of their batch-norm; weight decay does not reach them either."""
    fields = {"optimizer": optimizer, "weight_decay": 0.1}
    before, after = start(tmp_path / "run", digits, freeze=["conv1", "bn1", "layer1"], **fields)
    for name, tensor in after.items():
        frozen = name.startswith(("conv1", "bn1", "layer1"))
        assert torch.equal(tensor, before[name]) == frozen, name


def test_a_name_is_a_layer_or_a_weight_and_not_the_beginning_of_one() -> None:
    network = small()
    freeze(network, tiny(freeze=["layer1.0", "linear.bias"]))
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in network.named_parameters() if n.startswith("layer1.0.") or n == "linear.bias"}
    assert not network.get_submodule("layer1.0").training
    assert network.get_submodule("layer1.1").training
    assert network.linear.training


def test_frozen_batch_norm(digits: ImageSet, tmp_path: Path) -> None:
    before, after = start(tmp_path / "run", digits, freeze_batch_norm=True)
    norms = {name for name, m in small().named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == (name.rpartition(".")[0] in norms), name


@pytest.mark.parametrize("mode", ["train", "train-frozen-stats", "eval"])
def test_images_do_not_see_each_other_through_frozen_batch_norm(mode: Any) -> None:
    network = small()
    freeze(network, tiny(freeze_batch_norm=True))
    target, (x, y, _) = Target(network, ascent_batch_norm=mode), batches(1)[0]
    torch.testing.assert_close(target.descend(x)[:2], target.descend(x[:2]))
    together = target.ascend(x, lambda z: F.cross_entropy(z, y, reduction="sum"))[0]
    alone = target.ascend(x[:2], lambda z: F.cross_entropy(z, y[:2], reduction="sum"))[0]
    torch.testing.assert_close(together[:2], alone)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"freeze": ["layer3"]}, r"no weights named 'layer3'; did you mean 'layer\d'\? \(it has conv1, bn1, layer1, "),
        ({"freeze": ["xyz"]}, r"freeze: the network small has no weights named 'xyz' \(it has conv1"),
        ({"freeze": ["conv1", "bn1", "layer1", "layer2", "linear"]}, "freeze leaves nothing of the network small"),
        ({"freeze": [1]}, "freeze is .*; it must be a list of names such as"),
        ({"freeze": "conv1"}, "freeze is 'conv1'; it must be a list of names"),
        ({"layer_decay": 0}, "layer_decay is 0.0; it must be above 0 and at most 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; it must be above 0 and at most 1"),
        ({"checkpoint_activations": True, "compile": True}, "checkpoint_activations does not go with compile"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], said: str, digits: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        start(tmp_path / "run", digits, **fields)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_network_without_batch_norm_or_blocks() -> None:
    with pytest.raises(UserError, match="the network small has no batch-norm; leave it out"):
        freeze(nn.Linear(2, 2), tiny(freeze_batch_norm=True))
    with pytest.raises(UserError, match="checkpoint_activations: the network has no blocks"):
        checkpoint_activations(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


# -- ascents without dropout ------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    """Drops by a layer, by its own mode as attention does, and whole branches; with a batch-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.drop, self.linear = nn.Dropout(0.5), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x)).relu()
        if self.training:
            out = out * (torch.rand(len(x), 1, 1, 1) < 0.5)
        return self.linear(self.drop(F.dropout(out.mean((2, 3)), 0.5, self.training)))


def dropping() -> nn.Module:
    torch.manual_seed(0)
    return Dropping()


def test_ascents_see_the_whole_network_and_descents_drop() -> None:
    target, (x, y, _) = Target(dropping(), ascent_dropout=False), batches(1)[0]
    module = target.module

    def gradient() -> Tensor:
        return target.ascend(x, lambda z: F.cross_entropy(z, y))[0]

    assert torch.equal(gradient(), gradient())
    point = x.clone().requires_grad_()
    weight, bias = module.norm.parameters()
    features = F.batch_norm(module.conv(point), None, None, weight, bias, training=True)
    (expected,) = torch.autograd.grad(F.cross_entropy(module.linear(features.relu().mean((2, 3))), y), point)
    torch.testing.assert_close(gradient(), expected)
    assert torch.equal(target.through(x), target.through(x))
    assert not torch.equal(target.descend(x), target.descend(x))
    assert not torch.equal(target(x), target(x))
    assert all(layer.training for layer in module.modules())
    assert module.norm.num_batches_tracked == 9


def test_by_default_ascents_drop_too() -> None:
    target, (x, y, _) = Target(dropping()), batches(1)[0]
    one, other = (target.ascend(x, lambda z: F.cross_entropy(z, y))[0] for _ in range(2))
    assert not torch.equal(one, other)


# -- checkpointed blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, entry in methods().items() if entry.same_as is None])
def test_checkpointed_blocks_change_no_bit(name: str) -> None:
    """Of any method: weights and running statistics after three updates, with dropout inside the blocks."""
    steps = {"steps": 2} if "steps" in methods()[name].settings else {}
    ends = []
    for checkpointed in (False, True):
        network = small()
        network.layer1.insert(1, nn.Sequential(nn.Dropout(0.2), nn.Conv2d(4, 4, 1)))
        if checkpointed:
            checkpoint_activations(network)
        torch.manual_seed(1)
        method = build_method(name, info(features=8), steps)
        run_method(method, network, batches(3), THREAT, target=Target(network, ascent_dropout=False))
        ends.append(network.state_dict())
    assert equal(*ends)


def saved_bytes(network: nn.Module) -> int:
    """What autograd keeps of a forward pass, each tensor once."""
    seen: dict[int, int] = {}
    weights = {p.data_ptr() for p in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            seen[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.rand(8, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(x).sum()
    assert loss.requires_grad
    return sum(seen.values())


def test_checkpointed_blocks_keep_less() -> None:
    network = build_model("small", 10, 3, {"widths": [8, 8], "blocks": [4, 4]})
    before = saved_bytes(network)
    checkpoint_activations(network)
    assert saved_bytes(network) < before / 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_of_a_checkpointed_network_stand_alone(copied: Any) -> None:
    network = small()
    checkpoint_activations(network)
    other = copied(network)
    x, _, _ = batches(1)[0]
    loss = other(x).sum()
    loss.backward()
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None for p in other.parameters())
    assert not network.bn1.running_mean.equal(other.bn1.running_mean)
    assert equal(network.state_dict(), small().state_dict())


# -- a run ------------------------------------------------------------------------------------------------------------

ALL: dict[str, Any] = {
    "optimizer": "adamw",
    "layer_decay": 0.75,
    "freeze": ["conv1"],
    "freeze_batch_norm": True,
    "ascent_dropout": False,
    "checkpoint_activations": True,
    "average": 0.9,
    "schedule": "one-cycle",
}


def test_resumes_to_the_same_end_with_all_of_it(digits: ImageSet, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny(max_steps=7, **ALL), whole, data=digits, progress=False)
    for last in (3, 7):
        train(tiny(max_steps=last, **ALL), parts, data=digits, progress=False, resume=parts.exists())
    assert records(parts) == records(whole)


def test_checkpointed_runs_end_like_others(digits: ImageSet, tmp_path: Path) -> None:
    for name in (True, False):
        fields = {**ALL, "checkpoint_activations": name, "freeze": [], "freeze_batch_norm": False}
        train(tiny("fgsm-sdi", max_steps=5, **fields), tmp_path / str(name), data=digits, progress=False)
    assert records(tmp_path / "True") == records(tmp_path / "False")
