"""How each published implementation is run, and with which settings ours is the same method."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from headstart.core import Method
from headstart.errors import UserError
from headstart.parts.memory import SampleMemory

Batch = tuple[Tensor, Tensor, Tensor]
Runner = Callable[..., None]


@dataclass(frozen=True)
class Peer:
    """A published implementation beside one of our methods.

    Attributes:
        method: our name.
        name: theirs.
        run: makes its updates, given checkout, peer, network, optimiser, the batches of an epoch and epochs.
        settings: of our method.
        config: of theirs.
        indexed: its batches carry the rows of the samples.
        exchanged: see ``CommonNoise``; of our side.
        prepare: what is done to our method before it begins.
        reason: why a difference is left.
    """

    method: str
    name: str
    run: Runner
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    indexed: bool = False
    exchanged: Mapping[tuple[int, int], int] | None = None
    prepare: Callable[[Method], None] | None = None
    reason: str | None = None


def of(checkout: Path) -> Sequence[Peer]:
    """The implementations that a checkout holds.

    Raises:
        UserError: it is none that is known here.
    """
    if (checkout / "fast_at").is_dir():
        return BENCHMARK
    if (checkout / "FGSM_SDI_loss.py").is_file():
        return AUTHORS
    raise UserError(f"{checkout} is no checkout of FastAT_Benchmark or FGSM-SDI")


@contextmanager
def importing(checkout: Path, **stand_ins: ModuleType) -> Iterator[None]:
    """Inside, modules come from the checkout first, and those named from here."""
    before = set(sys.modules)
    with patch.dict(sys.modules, stand_ins), patch.object(sys, "path", [str(checkout), *sys.path]):
        yield
    for name in set(sys.modules) - before:
        if str(checkout) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def module(name: str, **contents: Any) -> ModuleType:
    """A module of that name with these contents."""
    made = ModuleType(name)
    vars(made).update(contents)
    return made


# -- FastAT Benchmark ----------------------------------------------------------------------------------------------


class Epoch(list[tuple[Tensor, ...]]):
    """The batches of an epoch, as a data loader gives them."""

    dataset = SimpleNamespace()


def benchmark(
    checkout: Path, peer: Peer, network: nn.Module, optimizer: Optimizer, batches: list[Batch], epochs: int
) -> None:
    """The whole training loop of one of the benchmark's classes; validation is not run."""
    logger = lambda path: SimpleNamespace(log=lambda text: None, new_line=lambda: None)  # noqa: E731
    utils = module("utils", set_seed=lambda seed: None, Logger=logger)
    attacks = module("torchattacks", PGD=None, FGSM=None)
    level = {"val_acc": 0.0, "fgsm_acc": 0.0, "pgd_acc": 0.0}
    with importing(checkout, utils=utils, torchattacks=attacks), tempfile.TemporaryDirectory() as folder:
        kind = getattr(importlib.import_module("fast_at"), peer.name)
        config: dict[str, Any] = {
            "total_epoch": epochs,
            "weight_average": False,
            "label_smoothing": 0.4,
            "class_num": 10,
        }
        samples = len(batches) * len(batches[0][0])
        config |= {"training_shape": [samples, 3, 32, 32], "image_shape": [3, 32, 32]}
        trainer = kind(network, config=config | peer.config, log_dir=folder)
        trainer._validate_model = lambda *given, **named: level
        loader = Epoch((i, x, y) if peer.indexed else (x, y) for x, y, i in batches)
        with patch.object(torch, "save", lambda *given: None):
            trainer.train(optimizer, SimpleNamespace(step=lambda: None), loader, None)


SMOOTH: dict[str, Any] = {"label_smoothing": 0.4}
BOTH_SMOOTH: dict[str, Any] = SMOOTH | {"ascent_label_smoothing": 0.4}
ELLE_ROW: dict[str, Any] = {"weight": 1.0, "noise_scale": 1.0, "relative_alpha": 1.25, "box": True}
ONCE: dict[str, Any] = {"label_smoothing": None}  # these classes smooth labels themselves, and then once more
IMAGE = 3 * 32 * 32


def same_corners(method: Method, draws: int = 1) -> None:
    """Let the memory of perturbations begin at the corners that the benchmark draws, channels before rows and columns.

    Args:
        draws: how often it draws them; the last time counts.
    """
    memory = method.init.memory
    assert isinstance(memory, SampleMemory)

    def draw_corners(radius: float) -> None:
        signs = [(2 * torch.rand(len(memory.rows), 3, 32, 32) - 1).sign() for _ in range(draws)][-1]
        memory.rows.copy_(radius * signs.permute(0, 2, 3, 1).flatten(1))

    memory.draw_corners = draw_corners  # type: ignore[method-assign]


REMEMBERED: dict[str, Any] = {"indexed": True, "prepare": same_corners}
TRAIN_MODE = {"batch_norm": "train"}  # of the attack, where the authors have evaluation mode
BENCHMARK = [
    Peer("fgsm", "FGSMAT", benchmark, SMOOTH),
    Peer("fgsm-rs", "FGSMRS", benchmark, SMOOTH),
    Peer("n-fgsm", "NFGSM", benchmark, SMOOTH),
    Peer("zero-grad", "ZeroGrad", benchmark, SMOOTH),
    Peer("fgsm-ga", "GradAlign", benchmark, SMOOTH, reason="it boxes the alignment's second point, the authors do not"),
    Peer("rs-aaer", "AAER", benchmark, {}, ONCE),
    Peer("n-aaer", "AAER", benchmark, {}, ONCE | {"lamda2": 1.5, "lamda3": 0.15, "clamp": 0, "fgsm_alpha": 1.0}),
    Peer("elle", "ELLE", benchmark, SMOOTH | ELLE_ROW),
    Peer("ssat", "SSAT", benchmark, BOTH_SMOOTH | TRAIN_MODE),
    Peer("gat", "GAT", benchmark, BOTH_SMOOTH, reason="on even batches it raises CE of probabilities"),
    Peer("nuat", "Nu_AT", benchmark, BOTH_SMOOTH | TRAIN_MODE | {"weight": 4.0, "ramp": 1.0}),
    Peer(
        "free", "Free_AT", benchmark, SMOOTH | {"replays": 2}, {"m": 2, "total_epoch": 4},
        reason="it begins every batch from zero, the authors carry the perturbation on",
    ),
    Peer("fgsm-mep", "FGSM_PGI", benchmark, SMOOTH | {"box_start": True, "compact": False}, **REMEMBERED),
    Peer("fgsm-pco", "FGSM_PCO", benchmark, {"compact": False}, ONCE, **REMEMBERED),
    Peer("mep-cs", "FGSM_MEP_CS", benchmark, {"compact": False}, ONCE, True, prepare=partial(same_corners, draws=2)),
    Peer("rs-cs", "FGSM_RS_CS", benchmark, {}, ONCE),
    Peer("fgsm-uap", "FGSM_UAP", benchmark, SMOOTH),
    Peer("fgsm-cuap", "FGSM_CUAP", benchmark, SMOOTH),
    Peer("liet", "LIET", benchmark, {}, {"label_smoothing": 0.6}, exchanged={(IMAGE, 0): 1, (IMAGE, 1): 0}),
]  # fmt: skip

# -- the authors' FGSM-SDI -----------------------------------------------------------------------------------------


def sdi(
    checkout: Path, peer: Peer, network: nn.Module, optimizer: Optimizer, batches: list[Batch], epochs: int
) -> None:
    """The authors' generator and loss, in the order of the training function of their script, which cannot start."""
    one = torch.ones(3, 1, 1)
    names = ("get_loaders", "attack_pgd", "evaluate_pgd", "evaluate_standard")
    limits: dict[str, Any] = {
        "upper_limit": one,
        "lower_limit": 0 * one,
        "std": one,
        "clamp": lambda x, low, high: torch.max(torch.min(x, high), low),
    }
    utils = module("utils", **limits, **dict.fromkeys(names))
    with importing(checkout, utils=utils), patch.object(Tensor, "cuda", lambda tensor: tensor):
        loss_of = importlib.import_module("FGSM_SDI_loss").adv_FGSM_loss
        epsilon = 8 / 255 * one
        attacker = importlib.import_module("attacker").One_Layer_Attacker(eps=epsilon, input_channel=6)
        same_weights(attacker, BEGUN[0])
        learner = torch.optim.Adam(attacker.parameters(), lr=1e-3, weight_decay=5e-4)
        shared = {"model": network, "factor": 0.5, "attacker": attacker, "optimizer": None, "optimizer_att": None}
        shared |= {"epsilon": epsilon, "alpha": epsilon}
        for _ in range(epochs):
            for k, (x, y, _index) in enumerate(batches):
                x = x.clone().requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(network(x), y), [x])
                if k % peer.config["att_num"] == 0:
                    learner.zero_grad()
                    loss, _ = loss_of(grad=grad, x_natural=x, y=y, for_attacker=1, **shared)
                    (-loss).backward()
                    learner.step()
                optimizer.zero_grad()
                loss, _ = loss_of(grad=grad, x_natural=x, y=y, for_attacker=0, **shared)
                loss.backward()
                optimizer.step()


BEGUN: list[list[Tensor]] = [[]]
"""Weights with which our generator began, in order."""


def keep_weights(method: Method) -> None:
    """Note how our generator begins."""
    BEGUN[0] = [p.detach().clone() for p in method.init.generator.parameters()]  # type: ignore[union-attr]


def same_weights(attacker: nn.Module, weights: list[Tensor]) -> None:
    """Begin as ours, whose layers stand in another order; their one parameter more is read by nothing."""
    left = list(weights)
    for name, parameter in attacker.named_parameters():
        if name != "scale_last":
            place = next(i for i, given in enumerate(left) if given.shape == parameter.shape)
            parameter.data.copy_(left.pop(place))


AUTHORS = [Peer("fgsm-sdi", "FGSM_SDI", sdi, {"generator_every": 2}, {"att_num": 2}, prepare=keep_weights)]
