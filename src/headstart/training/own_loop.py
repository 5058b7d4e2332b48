"""A method in a training loop that is not ours."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from headstart.core import Clock, Step, Target, TaskInfo
from headstart.core.modes import prepare_for_training
from headstart.errors import SettingError
from headstart.methods.registry import build_method
from headstart.parts.memory import BatchMemory, SampleMemory


class LoopMethod:
    """A method as a loss for a loop that is not ours: ``loss = method(model, x, y)``, then backward and a step.

    The loop has the optimiser and the backward, and may clip, scale and average as it likes. State of the method
    moves when the next loss is asked for, or by ``finish`` after the last.

    Layers that are in evaluation mode while the model is in training mode are frozen, and stay so.

    Args:
        settings: of the method.

    Raises:
        SettingError: no such method, or a setting that it does not take.
    """

    def __init__(self, name: str, info: TaskInfo, settings: dict[str, Any], bf16: bool) -> None:
        self.method = build_method(name, info, settings)
        self.name, self.info, self.bf16 = name, info, bf16
        self.update = 0
        """Losses asked for so far."""
        memories = [part for part in self.method.modules() if isinstance(part, SampleMemory)]
        self.remembers = any(not isinstance(memory, BatchMemory) for memory in memories)
        """Whether the method remembers samples, and so needs their index."""
        if self.remembers and not info.samples:
            raise SettingError(f"method {name} remembers every sample; give samples, the size of the training set")
        self._target: Target | None = None
        self._pending: Step | None = None
        self._loaded: dict[str, Any] | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None) -> Tensor:
        """The loss to descend.

        Args:
            model: network from images in [0, 1] to logits (B, K); the same one in every call.
            x: images (B, C, H, W), fp32 in [0, 1].
            y: labels (B,), int64.
            index: row of each sample in the training set, (B,), for methods that remember samples.

        Raises:
            SettingError: the method remembers samples, and ``index`` is missing.
        """
        if self.remembers and index is None:
            raise SettingError(
                f"method {self.name} remembers every sample; give index, the row of each in the training set, (B,)"
            )
        self.finish()
        target = self._target_for(model, x)
        batches = max(1, self.info.updates // self.info.epochs)
        clock = Clock(self.update, self.info.updates, self.update // batches, self.info.epochs, self.update % batches)
        self._pending = Step(x, y, self.info.threat, clock, index)
        self.update += 1
        loss: Tensor = self.method(target, self._pending)
        return loss

    def finish(self) -> None:
        """Move the method's state after the last update; methods that perturb weights take it off the model here."""
        if self._pending is not None:
            self.method.observe(self._pending)
            self._pending = None

    def state_dict(self) -> dict[str, Any]:
        """The method's state, for ``torch.save``; take it between the optimiser's step and the next loss.

        With the states of model and optimiser, taken after it, and of torch's random numbers, an interrupted loop
        goes on as if it had not been. Like a module's, its tensors are the live ones.
        """
        self.finish()
        return {"update": self.update, "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            RuntimeError, KeyError: it is of another method.
        """
        self._pending = None
        self.method.load_state_dict(state["method"])
        self.update = state["update"]
        self._loaded = state["method"] if self._target is None else None

    def _target_for(self, model: nn.Module, x: Tensor) -> Target:
        if self._target is None or self._target.module is not model:
            prepare_for_training(model)
            self._target = Target(model, bf16=self.bf16)
            self.method.to(x.device)
            if self._loaded is not None:  # again, since the state of optimisers does not move with their weights
                self.method.load_state_dict(self._loaded)
                self._loaded = None
        return self._target
