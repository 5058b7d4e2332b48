"""What learns in a run: the network, and the method, optimiser, schedule and average around it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from headstart.core import Clock, Method, Step, Target, TaskInfo, distributed
from headstart.core.checkpointing import checkpoint_activations
from headstart.core.layers import output_layer
from headstart.core.modes import prepare_for_training
from headstart.core.threat import ThreatModel
from headstart.data import Batch, Loader, TrainingSet
from headstart.errors import SettingError
from headstart.methods.registry import build_method
from headstart.models import check_network
from headstart.recipes.recipe import Recipe
from headstart.training.average import WeightAverage
from headstart.training.optim import make_optimizer, make_schedule
from headstart.training.state import Stateful
from headstart.training.tuning import freeze
from headstart.training.update import Updater


class Learner:
    """Network, method, optimiser, schedule and average of a run, on its device, and the updater that moves them.

    Layers that the user has frozen by their ``eval()`` stay so; see ``prepare_for_training``.

    Args:
        network: images (B, C, H, W) in [0, 1] to logits (B, K); it is trained in place.
        data: what is trained on.
        loader: its batches on this process.

    Raises:
        WeightsError: the network does not fit the data.
        SettingError: a setting that method, optimiser or schedule do not take, or that they do not take together.
    """

    def __init__(self, recipe: Recipe, fabric: Fabric, network: nn.Module, data: TrainingSet, loader: Loader) -> None:
        self.recipe, self.fabric = recipe, fabric
        self.threat = ThreatModel(cast(float, recipe.epsilon), recipe.norm)
        """At the final epsilon."""
        self.network = self._placed(network)
        check_network(self.network, data.shape, len(data.classes), data.name)
        self.method = self._build_method(data, loader)
        per_epoch = loader.batches * self.method.replays
        self.updates = recipe.epochs * per_epoch
        """Weight updates of the whole run."""
        self.optimizer = make_optimizer(recipe, self.network)
        self.schedule = make_schedule(recipe, self.optimizer, self.updates, per_epoch)
        warmup = recipe.average_warmup
        self.average = WeightAverage(self.network, recipe.average, warmup=warmup) if recipe.average else None
        # Static: a smaller last batch would otherwise make a slower network for every size, and compile it late.
        fast = cast(nn.Module, torch.compile(self.network, dynamic=False)) if recipe.compile else None
        whole = fast if fast is not None else self.network
        self.synchronised = fabric.setup_module(whole) if distributed.world_size() > 1 else None
        self.target = Target(
            self.network,
            fast=fast,
            synchronised=self.synchronised,
            bf16=recipe.precision == "bf16",
            ascent_batch_norm=recipe.ascent_batch_norm,
            ascent_dropout=recipe.ascent_dropout,
        )
        self.make_updater(clip=recipe.clip_gradient)

    def make_updater(self, *, clip: float, noise: float = 0.0) -> None:
        """Make the updater anew: with these measures, and without what was recorded of the optimiser before."""
        self.updater = Updater(
            self.method,
            self.target,
            self.optimizer,
            accumulate=self.recipe.accumulate,
            clip=clip,
            noise=noise,
            unsynchronised=self._unsynchronised,
            graphs=self.fabric.device if self.graphed else None,
        )

    def update(self, batch: Batch, clock: Clock) -> list[tuple[Tensor, Step]]:
        """One weight update, of rate and average too; see ``Updater``. Nothing in here waits for the device."""
        done = self.updater(batch, self.threat_at(clock), clock)
        self.schedule.step()
        if self.average:
            self.average.update(self.method.averages(done[-1][1]))
        return done

    @property
    def graphed(self) -> bool:
        """Whether updates are recorded as CUDA graphs."""
        alone = self.synchronised is None and self.recipe.accumulate == 1 and not self.recipe.checkpoint_activations
        return self.recipe.cuda_graphs and alone and self.fabric.device.type == "cuda"

    @property
    def selected(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one, with its counters up to date."""
        if self.average is None:
            return self.network
        self.average.refresh()
        return self.average.module

    @property
    def learned(self) -> dict[str, Stateful]:
        """What an update changes."""
        learned: dict[str, Stateful] = {
            "network": self.network,
            "method": self.method,
            "optimizer": self.optimizer,
        }
        return learned | ({"average": self.average} if self.average else {})

    def threat_at(self, clock: Clock) -> ThreatModel:
        """The threat model in force: epsilon rises from 0 in the first part of the run, if the recipe says so."""
        ramp = self.recipe.epsilon_ramp
        if not ramp or clock.fraction >= ramp:
            return self.threat
        return replace(self.threat, epsilon=self.threat.epsilon * clock.fraction / ramp)

    def agree(self) -> None:
        """Take over the batch-norm statistics of the first process, which are validated and kept."""
        distributed.broadcast_([*self.network.buffers(), *(self.average.module.buffers() if self.average else ())])

    def _placed(self, network: nn.Module) -> nn.Module:
        prepare_for_training(network)
        if self.recipe.sync_batch_norm and distributed.world_size() > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        freeze(network, self.recipe)
        if self.recipe.checkpoint_activations:
            checkpoint_activations(network)
        return network.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _build_method(self, data: TrainingSet, loader: Loader) -> Method:
        recipe = self.recipe
        info = TaskInfo(
            classes=len(data.classes),
            image_shape=data.shape,
            threat=self.threat,
            samples=loader.samples,
            batch_size=loader.batch_size // recipe.accumulate,
            updates=recipe.epochs * loader.batches,
            epochs=recipe.epochs,
            features=output[1].in_features if (output := output_layer(self.network)) else 0,
            pad=loader.pad,
            rescaled=loader.rescales,
        )
        method = build_method(recipe.method, info, recipe.method_args)
        self._check_accumulation(method)
        return method.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _check_accumulation(self, method: Method) -> None:
        if self.recipe.accumulate == 1:
            return
        if method.replays > 1:
            raise SettingError(
                f"method {self.recipe.method} carries its perturbation from update to update on one batch, which "
                "accumulate takes apart; leave accumulate out"
            )
        if self.recipe.average and type(method).averages is not Method.averages:
            raise SettingError(
                f"method {self.recipe.method} decides by the whole batch whether an update enters the weight average, "
                "which accumulate takes apart; leave accumulate or average out"
            )

    def _unsynchronised(self) -> AbstractContextManager[object]:
        if self.synchronised is None:
            return nullcontext()
        return self.fabric.no_backward_sync(self.synchronised)
