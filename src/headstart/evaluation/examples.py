"""Adversarial examples of one attack, for a model and images in hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from headstart.core.threat import ThreatModel
from headstart.errors import SettingError, unknown
from headstart.evaluation.attacker import Attacker
from headstart.evaluation.evaluate import CPU_BATCH, CUDA_BATCH, device_of
from headstart.evaluation.measurement import CHECKED, ready
from headstart.evaluation.plan import Images
from headstart.evaluation.probe import probe
from headstart.evaluation.suites import ATTACKS, Task
from headstart.fields import pixel_fraction


@torch.no_grad()
def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    name: str = "apgd-t",
    *,
    epsilon: float | str,
    norm: str = "linf",
    seed: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Adversarial examples, inside the threat model, by one of the attacks of ``headstart list attacks``.

    The model, frozen and in evaluation mode while this runs, and the global random numbers are left as they were.

    Args:
        model: from fp32 images (B, C, H, W) in [0, 1] to logits (B, K), on the device to attack on.
        x: images (N, C, H, W), uint8 or floats in [0, 1]; ``y``: labels (N,), int64.
        epsilon: pixel fraction; may be written "8/255". ``norm``: linf or l2.
        seed: of the attack's random numbers. ``batch_size``: images at once; default 1000 on CUDA and 250 elsewhere.

    Returns:
        fp32 (N, C, H, W) in [0, 1], where ``x`` is.

    Raises:
        UserError: unknown attack, one that does not apply here, a bad threat model, or images or labels unlike these.
    """
    if name not in ATTACKS:
        raise unknown("attack", name, ATTACKS)
    threat, device = ThreatModel(pixel_fraction(epsilon), norm), device_of(model)
    images = Images(x, y, device)
    size = batch_size or (CUDA_BATCH if device.type == "cuda" else CPU_BATCH)
    with ready(model, device), torch.random.fork_rng([device] if device.type == "cuda" else []):
        seen = probe(model, *images.batch(torch.arange(min(CHECKED, len(images)))))
        task = Task(model, threat, seen.logits.shape[1], device, seed, random=seen.random, alone=seen.alone)
        if reason := ATTACKS[name].skipped(task):
            raise SettingError(f"attack {name} {reason}; choose another (headstart list attacks)")
        attacker = Attacker(name, model, task, tf32=False)
        batches = torch.split(torch.arange(len(images)), size)
        return torch.cat([attacker(*images.batch(rows), seed + int(rows[0])).images.to(x.device) for rows in batches])
