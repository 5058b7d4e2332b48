"""Square: a random search that changes one square of the image at a time, without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from headstart.attacks.rows import chosen
from headstart.attacks.scores import fooled, margin
from headstart.core.threat import ThreatModel

QUERIES, SHARE, KEPT = 5000, 0.8, 250
"""Queries of an image, share of its pixels in the first square, and queries between two states that are kept."""
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which the share is halved."""
_CHANNELS = 16
"""Channels up to which a change is told from others by a number."""


@dataclass
class State:
    """The search between two queries, from which it can go on.

    Attributes:
        query: the next one.
        found: (B, C, H, W), what fools the model.
        rows: (L,) of the images that are still searched, with the best point of each, fp32 (L, C, H, W), and
        lead: z_y - max_{j != y} z_j there, (L,).
    """

    query: int
    found: Tensor
    rows: Tensor
    best: Tensor
    lead: Tensor


@torch.no_grad()
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = QUERIES,
    seed: int = 0,
    alone: bool = False,
    judge: nn.Module | None = None,
    state: State | None = None,
    keep: Callable[[State], None] | None = None,
) -> Tensor:
    """Square attack in the maximum norm (Andriushchenko et al., 2020, arXiv:1912.00049), as AutoAttack sets it up.

    The reference code's search with the same random numbers (docs/evaluation.md). A CPU is not asked what would change
    nothing, or has failed since the image was last changed; a GPU's answers are looked at after every fiftieth query.

    Args:
        model, x, y, threat: as for ``pgd``; norm linf.
        queries: at most so many for an image.
        alone: the logits of an image depend on that image alone.
        judge: the model that must be fooled for an image to be left; ``model`` where None.
        state: where an earlier call with the same arguments was; None begins.
        keep: is given the state every ``KEPT`` queries.

    Returns:
        Examples inside the threat model, of the shape of ``x``, of the largest margin found; images that are
        classified wrongly as they are.
    """
    search = _Search(model, x, y, threat.epsilon, seed, alone, judge)
    first = search.begin() if state is None else search.resume(state)
    for query in range(first, queries):
        if len(search.rows) == 0:
            break
        if keep is not None and query > first and query % KEPT == 0:
            keep(State(query, search.found, search.rows, search.best, search.lead))
        search.ask(query)
    search.settle(last=True)
    return search.found


class _Search:
    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, epsilon: float, seed: int, alone: bool, judge: nn.Module | None
    ) -> None:
        self.model, self.judge, self.images, self.labels = model, judge, x, y
        self.epsilon, self.draw = epsilon, Generator().manual_seed(seed)
        here = x.device.type == "cpu"
        self.remember, self.every = here and alone and x.shape[1] <= _CHANNELS, 1 if here else 50
        self.side = 0

    def begin(self) -> int:
        """The start: stripes of one column each."""
        self.found = self.images.clone()
        self._hold((~fooled(self.model, self.images, self.labels)).nonzero().squeeze(1))
        shape = (len(self.rows), self.images.shape[1], 1, self.images.shape[3])
        self.best = (self.x + self.epsilon * self._signs(shape)).clamp(0, 1)
        self.lead = self._lead(self.best, self.y) if len(self.rows) else self.x.new_empty(0)
        self.settle()
        return 0

    def resume(self, state: State) -> int:
        """Go on from there, with the random numbers that come next."""
        right = ~fooled(self.model, self.images, self.labels)
        self._signs((int(right.sum()), self.images.shape[1], 1, self.images.shape[3]))
        for query in range(state.query):
            self._square(query)
        self.found = state.found
        self._hold(state.rows)
        self.best, self.lead = state.best, state.lead
        return state.query

    def _hold(self, rows: Tensor) -> None:
        """Search these rows from now on."""
        self.rows, self.x, self.y = rows, self.images[rows], self.labels[rows]
        self.low, self.high = (self.x - self.epsilon).clamp_min(0), (self.x + self.epsilon).clamp_max(1)
        self.tried: list[set[int]] = [set() for _ in rows] if self.remember else []

    def ask(self, query: int) -> None:
        """Change one square of every image, where that brings it nearer to another class."""
        side, top, left, signs = self._square(query)
        # Nothing of another size can come again. Where the state is kept, nothing else may matter afterwards.
        if side != self.side or query % KEPT == 0:
            self.side, self.tried = side, [set() for _ in self.tried]
        here = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
        before = self.best[here]
        patch = (before + 2 * self.epsilon * signs.to(before)).clamp(self.low[here], self.high[here])
        asked = self._unknown(patch != before, signs, top * self.images.shape[3] + left)
        if asked is not None and len(asked) == 0:
            return
        if asked is None or len(asked) == len(self.rows):
            changed = self.best.clone()
            changed[here] = patch
            lead = self._lead(changed, self.y)
        else:
            changed = self.best[asked]
            changed[here] = patch[asked]
            answers = self._lead(changed, self.y[asked])
            lead = torch.full_like(self.lead, math.inf).index_copy_(0, asked, answers)
        nearer = lead < self.lead
        self.best[here] = chosen(nearer, patch, before)
        self.lead = torch.where(nearer, lead, self.lead)
        if self.remember:
            for row in nearer.nonzero().squeeze(1).tolist():
                self.tried[row].clear()
        if (query + 1) % self.every == 0:
            self.settle()

    def settle(self, last: bool = False) -> None:
        """Note the images that are broken, and search them no further."""
        beaten = self.lead <= 0
        if not bool(beaten.any()) and not last:
            return
        self.found[self.rows] = self.best
        if self.judge is not None:
            beaten[beaten.clone()] = fooled(self.judge, self.best[beaten], self.y[beaten])
        best, lead, tried = self.best[~beaten], self.lead[~beaten], self.tried
        self._hold(self.rows[~beaten])
        self.best, self.lead = best, lead
        if self.remember:
            self.tried = [known for known, gone in zip(tried, beaten.tolist(), strict=True) if not gone]

    def _unknown(self, changes: Tensor, signs: Tensor, place: int) -> Tensor | None:
        """The images (L,) whose answer to a change of pixels, bool (L, C, S, S), is not known; None for all."""
        if not self.remember:
            return None
        digits = (1 + (signs.flatten() > 0)) * 3 ** torch.arange(len(signs))
        codes = (changes.flatten(2).any(2) * digits.to(changes.device)).sum(1).tolist()
        offset, new = place * 3 ** len(signs), []
        for row, (code, known) in enumerate(zip(codes, self.tried, strict=True)):
            if code and code + offset not in known:
                known.add(code + offset)
                new.append(row)
        return torch.tensor(new, dtype=torch.int64, device=changes.device)

    def _lead(self, x: Tensor, y: Tensor) -> Tensor:
        return -margin(self.model(x), y)

    def _square(self, query: int) -> tuple[int, int, int, Tensor]:
        """Side, row, column and signs (C, 1, 1) of a query's square."""
        channels, height, width = self.images.shape[1:]
        share = SHARE / 2 ** sum(query > bound for bound in _HALVED)
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        top, left = (int(extent * torch.rand(1, generator=self.draw)) for extent in (height - side, width - side))
        return side, top, left, self._signs((channels, 1, 1))

    def _signs(self, shape: tuple[int, ...]) -> Tensor:
        signs = (2 * torch.rand(shape, generator=self.draw) - 1).sign()
        return signs.to(self.images.device, non_blocking=True)  # the copy is staged, so that nobody waits for the GPU
