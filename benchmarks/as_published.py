"""Our methods beside a user's checkout of their authors' code: perturbation, loss and gradient of each update.

    git clone https://github.com/fzjcdt/FastAT_Benchmark && git clone https://github.com/jiaxiaojunQAQ/FGSM-SDI
    python benchmarks/as_published.py FastAT_Benchmark FGSM-SDI --out benchmarks/results/as_published.json

Both sides get the same network, batches and random numbers (``common_noise``), and make two epochs of three updates
each. The checkout is imported by path and run as it is; of what it needs beyond that, validation, the attack library it
is validated with, and CUDA are stood in for. Printed for each method, the largest over the updates:

perturbation    of |x_adv - x_adv'| / epsilon: our point of the weight update, and the nearest to it of the points that
                the other code sends through the network in that update
loss            relative difference of the loss that is descended
gradient        relative difference of the weights' gradient in the Euclidean norm

All of it in double precision; differences of later updates contain those of the earlier ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import SGD

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import peers
from benchmarks.common_noise import CommonNoise
from headstart.core import Clock, Step, Target, TaskInfo
from headstart.core.threat import ThreatModel
from headstart.methods.registry import build_method
from headstart.models import build_model

EPOCHS, PER_EPOCH, BATCH, CLASSES = 2, 3, 16, 10
EPSILON = 8 / 255

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass
class Update:
    """What one weight update shows from outside.

    Attributes:
        points: images that went through the network, those of the update's own pass among them.
        loss: what was descended.
        gradient: of the weights, flat.
    """

    points: list[Tensor]
    loss: float
    gradient: Tensor


@dataclass
class Observer:
    """Watches a network, an optimiser and the backward passes, and cuts what happens into updates."""

    noise: CommonNoise
    updates: list[Update] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)
    loss: float = 0.0

    def optimizer(self, network: nn.Module) -> SGD:
        """SGD whose steps end an update."""
        network.register_forward_pre_hook(lambda _, inputs: self.points.append(inputs[0].detach().clone()))
        weights = list(network.parameters())
        made = SGD(weights, lr=0.05, momentum=0.9, weight_decay=5e-4)

        def note(*_: Any) -> None:
            gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in weights])
            self.updates.append(Update(self.points, self.loss, gradient.clone()))
            self.points = []

        made.register_step_pre_hook(note)
        made.register_step_post_hook(lambda *_: self.noise.next_update())
        return made

    def watch_backward(self) -> Any:
        """A context in which the value of the last scalar that was differentiated is kept."""
        original = Tensor.backward

        def backward(tensor: Tensor, *args: Any, **options: Any) -> None:
            if tensor.numel() == 1:
                self.loss = float(tensor.detach())
            original(tensor, *args, **options)

        return patch.object(Tensor, "backward", backward)


def batches() -> list[Batch]:
    """Images, labels and rows of an epoch. Flat areas at 0 and 1, where the image box binds."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for k in range(PER_EPOCH):
        x = (torch.rand(BATCH, 3, 32, 32, generator=draw) * 1.2 - 0.1).clamp(0, 1)
        y = torch.randint(CLASSES, (BATCH,), generator=draw)
        made.append((x, y, torch.arange(k * BATCH, (k + 1) * BATCH)))
    return made


def network() -> nn.Module:
    """The network that both sides begin with, the same every time."""
    torch.manual_seed(0)
    return build_model("small", CLASSES, args={"widths": [8, 16]}).train()


def ours(peer: peers.Peer, data: list[Batch]) -> tuple[list[Update], nn.Module]:
    """Our updates with the settings that the other code corresponds to."""
    net, noise = network(), CommonNoise(peer.exchanged)
    observer = Observer(noise)
    threat = ThreatModel(EPSILON)
    info = TaskInfo(CLASSES, (3, 32, 32), threat, PER_EPOCH * BATCH, BATCH, EPOCHS * PER_EPOCH, EPOCHS, features=16)
    with noise.in_force():
        method = build_method(peer.method, info, peer.settings)
        if peer.prepare is not None:
            peer.prepare(method)
        optimizer, target = observer.optimizer(net), Target(net)
        update = 0
        for epoch in range(EPOCHS):
            for k, (x, y, index) in enumerate(data):
                for _ in range(method.replays):
                    clock = Clock(update, EPOCHS * PER_EPOCH * method.replays, epoch, EPOCHS, k)
                    step = Step(x, y, threat, clock, index)
                    loss = method(target, step)
                    observer.loss = float(loss.detach())
                    loss.backward()
                    # The point of the weight update comes last; the method may have sent others before.
                    observer.points = [x if step.delta is None else (x + step.delta).detach()]
                    optimizer.step()
                    method.observe(step)
                    optimizer.zero_grad()
                    update += 1
    return observer.updates, net


def theirs(peer: peers.Peer, data: list[Batch], checkout: Path) -> tuple[list[Update], nn.Module]:
    """The updates that the other code makes."""
    net, noise = network(), CommonNoise()
    observer = Observer(noise)
    with noise.in_force(), observer.watch_backward():
        peer.run(checkout, peer, net, observer.optimizer(net), data, EPOCHS)
    return observer.updates, net


def compared(peer: peers.Peer, checkout: Path) -> dict[str, Any]:
    """The row of a method."""
    data = batches()
    mine, net = ours(peer, data)
    other, other_net = theirs(peer, data, checkout)
    if len(mine) != len(other):
        raise RuntimeError(f"{peer.method}: {len(mine)} updates here, {len(other)} there")
    rows = [
        {
            "perturbation": min(
                (a.points[-1] - p).abs().max().item() for p in b.points if p.shape == a.points[-1].shape
            )
            / EPSILON,
            "loss": abs(a.loss - b.loss) / max(abs(b.loss), 1e-12),
            "gradient": ((a.gradient - b.gradient).norm() / b.gradient.norm()).item(),
        }
        for a, b in zip(mine, other, strict=True)
    ]
    weights = [torch.cat([p.detach().flatten() for p in n.parameters()]) for n in (net, other_net)]
    return {
        "method": peer.method,
        "code": f"{checkout.name}: {peer.name}",
        "settings": peer.settings,
        "first_update": rows[0],
        "all_updates": {key: max(row[key] for row in rows) for key in rows[0]},
        "weights": ((weights[0] - weights[1]).norm() / weights[1].norm()).item(),
        "reason": peer.reason,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| method | code | perturbation | loss | gradient | reason for what is left |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = " | ".join(f"{row['all_updates'][key]:.1e}" for key in ("perturbation", "loss", "gradient"))
        lines.append(f"| {row['method']} | {row['code']} | {cells} | {row['reason'] or ''} |")
    return "\n".join(lines)


def main() -> None:
    """Step what the checkouts hold, print the table, keep the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkouts", nargs="+", type=Path, help="FastAT_Benchmark or FGSM-SDI")
    parser.add_argument("--only", nargs="*", help="names of our methods")
    parser.add_argument("--out", type=Path, help="JSON record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # in float32 rounding turns a sign here and there, and with it a pixel
    rows = []
    for checkout in options.checkouts:
        for peer in peers.of(checkout):
            if options.only and peer.method not in options.only:
                continue
            rows.append(compared(peer, checkout.resolve()))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print()
    print(table(rows))
    if options.out:
        options.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
