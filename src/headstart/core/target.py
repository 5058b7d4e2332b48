"""The only door to the network under training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch._functorch.config
from torch import Tensor, nn

from headstart.core.layers import output_layer
from headstart.core.modes import modes_of, set_modes
from headstart.errors import WeightsError

BatchNormMode = Literal["train", "train-frozen-stats", "eval"]


@dataclass
class Passes:
    """Passes through the target network since the start; the cost of a method.

    A pass that differentiates back to the network's input without weight gradients counts as an input gradient,
    whether the gradient is the result or goes on into a generator.
    """

    forwards: int = 0
    input_gradients: int = 0
    backwards: int = 0


class Target:
    """The classifier being trained, as methods see it.

    Args:
        module: the bare network, images (B, C, H, W) in [0, 1] to logits (B, K).
        synchronised: the module whose backward synchronises weight gradients over processes; default ``module``.
        fast: a compiled version of ``module`` for passes without double backward; default ``module``.
        bf16: open a bfloat16 autocast around the network. Perturbations are added and clamped in fp32 before
            it, because casting an image rounds pixels by up to 0.5/255, a visible part of a small step.
        ascent_batch_norm: batch-norm mode of ascent passes that name none: "train" uses batch statistics and
            moves the running ones, "train-frozen-stats" does not move them, "eval" uses the running ones.
        ascent_dropout: False puts all layers but batch-norm into evaluation mode in passes that seek a perturbation:
            ``ascend`` and ``through``. Dropout and drop-path (stochastic depth) then drop nothing there.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        synchronised: nn.Module | None = None,
        fast: Callable[[Tensor], Tensor] | None = None,
        bf16: bool = False,
        ascent_batch_norm: BatchNormMode = "train",
        ascent_dropout: bool = True,
    ) -> None:
        self.module = module
        self.passes = Passes()
        self.ascent_dropout = ascent_dropout
        self.ascent_batch_norm: BatchNormMode = ascent_batch_norm
        if fast is not None:  # graphs that a loss reuses are walked twice, so their tensors may not be given away
            torch._functorch.config.donated_buffer = False
        self._fast = fast if fast is not None else module  # a compiled module has no truth value
        self._synchronised = synchronised if synchronised is not None else self._fast
        self._bf16 = bf16
        self.features: Tensor | None = None
        self._recording = False
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._batch_norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._modes = modes_of(module) if module.training else {}  # last seen in training
        self._device_type = next((p.device.type for p in module.parameters()), "cpu")

    def __call__(self, x: Tensor, *, batch_norm: BatchNormMode = "train") -> Tensor:
        """Logits (B, K) in fp32 at ``x``, differentiable with respect to weights and input (no synchronisation)."""
        self.passes.backwards += torch.is_grad_enabled()
        return self._forward(self._fast, x, batch_norm)

    def ascend(
        self,
        point: Tensor,
        score: Callable[[Tensor], Tensor],
        *,
        batch_norm: BatchNormMode | None = None,
        keep: bool = False,
        create: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Gradient of ``score(logits)`` with respect to the input at ``point``, and the logits there.

        Weights get no gradient and are frozen, so that compiled networks do not compute theirs either.

        Args:
            point: images (B, C, H, W); the graph behind them is cut. A leaf that requires a gradient is taken as it is
                and gets, with ``keep``, that of the loss that reuses the logits.
            score: logits (B, K) to a scalar.
            keep: keep the graph of the logits for a loss that reuses them.
            create: make the gradient itself differentiable with respect to the weights (double backward).

        Returns:
            The gradient (B, C, H, W), and the logits (B, K), detached unless ``keep`` or ``create``.
        """
        reused = keep or create
        network = self._twice_differentiable if create else self._fast
        with self._frozen(not reused), torch.enable_grad():
            if not (point.is_leaf and point.requires_grad):
                point = point.detach().requires_grad_()
            logits = self._forward(network, point, batch_norm or self.ascent_batch_norm, self.ascent_dropout)
            (grad,) = torch.autograd.grad(score(logits), point, retain_graph=reused, create_graph=create)
        self.passes.input_gradients += 1
        self.passes.backwards += reused
        return grad, logits if reused else logits.detach()

    def through(self, x: Tensor, *, batch_norm: BatchNormMode = "train") -> Tensor:
        """Logits differentiable with respect to ``x`` alone: the way from a loss to what proposed ``x``.

        The caller's backward costs one input gradient, counted here.
        """
        with self._frozen(True):
            logits = self._forward(self._fast, x, batch_norm, self.ascent_dropout)
        self.passes.input_gradients += 1
        return logits

    def descend(self, x: Tensor) -> Tensor:
        """Logits for the weight update, through the synchronised module: exactly once per update.

        Differentiable with respect to ``x`` too where ``x`` asks for it: Free-AT's perturbation gets its gradient
        from the weight update's own backward.
        """
        self.passes.backwards += 1
        return self._forward(self._synchronised, x, "train")

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Inside, no pass moves running statistics and ``descend`` does not synchronise: the loss is only tried out."""
        synchronised, self._synchronised = self._synchronised, self._fast
        try:
            with self._statistics(frozen=True):
                yield
        finally:
            self._synchronised = synchronised

    def record_features(self) -> None:
        """From now on every pass leaves in ``features`` what the network's last layer reads, (B, D), graph and all.

        Raises:
            WeightsError: the network has no linear layer at its end.
        """
        if self._recording:
            return
        found = output_layer(self.module)
        if found is None:
            raise WeightsError("this method reads penultimate features; the network needs a linear layer at its end")
        found[1].register_forward_pre_hook(lambda _, inputs: setattr(self, "features", inputs[0]))
        self._recording = True

    def _twice_differentiable(self, x: Tensor) -> Tensor:
        """The network, uncompiled where a compiled one is in use, since that refuses a double backward.

        Uncompiled batch-norm keeps its running statistics for such a backward, and compiled passes after this one
        move them in a way that autograd notices: there they are copied, and written back.
        """
        if self._fast is self.module:
            return cast(Tensor, self.module(x))
        live = dict(self.module.named_buffers())
        copies = {name: buffer.clone() for name, buffer in live.items()}
        logits = torch.func.functional_call(self.module, copies, x)
        with torch.no_grad():
            for name, buffer in live.items():
                buffer.copy_(copies[name])
        return cast(Tensor, logits)

    def _forward(
        self, network: Callable[[Tensor], Tensor], x: Tensor, batch_norm: BatchNormMode, dropout: bool = True
    ) -> Tensor:
        self._set_mode(training=batch_norm != "eval")
        self.passes.forwards += 1
        frozen = batch_norm == "train-frozen-stats"
        with self._statistics(frozen), self._dropout(dropout), self.autocast():
            logits = network(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _set_mode(self, training: bool) -> None:
        """Layers that are in evaluation mode while the network trains are frozen, and stay in it."""
        if self.module.training == training:
            return
        if not training:
            self._modes = modes_of(self.module)
            self.module.eval()
        elif self._modes:
            set_modes(self._modes)
        else:
            self.module.train()

    def autocast(self) -> torch.autocast:
        """The mixed precision of the network, also for what is trained beside it."""
        return torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self._bf16)

    @contextmanager
    def _frozen(self, frozen: bool) -> Iterator[None]:
        if frozen:
            for p in self._parameters:
                p.requires_grad_(False)
        try:
            yield
        finally:
            if frozen:
                for p in self._parameters:
                    p.requires_grad_(True)

    @contextmanager
    def _dropout(self, on: bool) -> Iterator[None]:
        """Without it every layer but batch-norm evaluates: attention drops by its own mode, not by a layer's."""
        if on:
            yield
            return
        modes = modes_of(self.module)
        set_modes({layer: mode and isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer, mode in modes.items()})
        try:
            yield
        finally:
            set_modes(modes)

    @contextmanager
    def _statistics(self, frozen: bool) -> Iterator[None]:
        if not frozen:
            yield
            return
        tracked = [m.track_running_stats for m in self._batch_norms]
        for m in self._batch_norms:
            m.track_running_stats = False
        try:
            yield
        finally:
            for m, before in zip(self._batch_norms, tracked, strict=True):
                m.track_running_stats = before
