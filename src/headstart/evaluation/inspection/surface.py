"""The loss around images, in the plane of the worst perturbation and a random one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.fgsm import fgsm
from headstart.attacks.scores import cross_entropy, input_gradient
from headstart.core.threat import ThreatModel
from headstart.evaluation.inspection.search import worst

POINTS = 21  # on each axis


@dataclass(frozen=True)
class Surface:
    """The cross-entropy of B images in a plane through each, and on a line of it.

    Attributes:
        along: multiples of the worst perturbation, (P,), from 0 to 1.
        across: multiples of a random perturbation of norm epsilon, (P,), from -1 to 1.
        loss: of each image, (B, P, P); rows are ``across``, columns ``along``.
        right: whether each image is classified correctly there, (B, P, P).
        predicted: along the worst perturbation, by the gradient at the image: the loss, were it linear, (B, P).
        step: loss of each image along the single step of FGSM, (B, P).
    """

    along: Tensor
    across: Tensor
    loss: Tensor
    right: Tensor
    predicted: Tensor
    step: Tensor

    @property
    def line(self) -> Tensor:
        """Loss of each image along the worst perturbation alone, (B, P)."""
        return self.loss[:, POINTS // 2]

    @property
    def deviation(self) -> float:
        """Mean distance of the loss from its first-order prediction, over the line and the images."""
        return (self.line - self.predicted).abs().mean().item()

    @property
    def missed(self) -> float:
        """By how much the loss at the worst perturbation exceeds that at the single step, mean over the images."""
        return (self.line[:, -1] - self.step[:, -1]).mean().item()

    @property
    def ridge(self) -> float:
        """How far the mean loss falls when random noise is added to the worst perturbation, at its lowest.

        Large where the attack found a narrow place beside which the network is right: the mark of a collapse.
        """
        end = self.loss.mean(0)[:, -1]
        return (end[POINTS // 2] - end.min()).item()


@torch.no_grad()
def loss_surface(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, generator: Generator | None = None
) -> Surface:
    """Measure the surface; every point is clipped to valid pixels, and those off both axes may leave the ball.

    The random perturbation is epsilon times the steepest direction of Gaussian noise: random signs in the maximum
    norm (Engstrom et al., 2018, arXiv:1807.10272). The worst one is that of highest loss in ``search.worst``.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        y: labels, int64 (B,).
        threat: the threat model.
        generator: source of all random numbers, on the device of ``x``.
    """
    delta, _ = worst(model, x, y, threat, score="ce", generator=generator)
    noise = threat.epsilon * threat.direction(torch.empty_like(x).normal_(generator=generator))
    single = fgsm(model, x, y, threat) - x
    grad, logits = input_gradient(model, x, y, cross_entropy)
    along, across = torch.linspace(0, 1, POINTS), torch.linspace(-1, 1, POINTS)

    def at(moves: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits = [model(x + threat.box(x, move)).float() for move in moves]
        losses, right = [cross_entropy(z, y) for z in logits], [z.argmax(1) == y for z in logits]
        return torch.stack(losses, 1).cpu(), torch.stack(right, 1).cpu()

    rows = [at([s * delta + t * noise for s in along.tolist()]) for t in across.tolist()]
    slope = (grad * delta).flatten(1).sum(1)
    return Surface(
        along,
        across,
        torch.stack([losses for losses, _ in rows], 1),
        torch.stack([right for _, right in rows], 1),
        (cross_entropy(logits.float(), y)[:, None] + slope[:, None] * along.to(x.device)).cpu(),
        at([s * single for s in along.tolist()])[0],
    )
