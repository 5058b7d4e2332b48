"""Seconds of updates and of single passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.pieces.context import Context, Piece
from benchmarks.timing import Workload, devices_time, literal_sdi_step, method_step, pass_times
from headstart.parts.generator import Generator

MEASURED = ("standard", "fgsm-rs", "fgsm-sdi", "sdi-memory", "pgd-at")


def throughput(batch_sizes: tuple[int, ...], names: Sequence[str] = MEASURED, **settings: Any) -> Piece:
    """Seconds per update, images/s, memory, and the share of the bound that the eager passes of that batch size set."""

    def piece(context: Context) -> dict[str, Any]:
        rows, passes = [], {}
        for batch_size in batch_sizes[:1] if context.tiny else batch_sizes:
            workload = context.workload(batch_size, bf16=True, **({} if context.tiny else settings))
            passes[batch_size] = pass_times(context.workload(batch_size, bf16=True), 2 if context.tiny else 20)
            for name in names:
                rows.append(timed(name, context, workload, passes[batch_size]))
                print(rows[-1], flush=True)
        return {
            "precision": "bf16",
            "settings": settings,
            "model": workload.model,
            "rows": rows,
            "eager_passes": passes,
            "fastest_batch_size": {name: fastest(rows, name) for name in names},
        }

    return piece


def timed(name: str, context: Context, workload: Workload, passes: dict[str, float]) -> dict[str, Any]:
    """One method at one batch size; ``passes`` gives the seconds of the eager passes."""
    try:
        step = method_step(workload, name)
        seconds, memory = devices_time(step, context.device, 4 if context.tiny else 60)
    except torch.OutOfMemoryError:
        return {"method": name, "batch_size": workload.batch_size, "out_of_memory": True}
    counted = step.passes_per_update()
    bound = passes["optimizer"] + sum(n * passes[kind] for kind, n in counted.items())
    return {
        "method": name,
        "batch_size": workload.batch_size,
        "seconds_per_update": seconds,
        "images_per_second": workload.batch_size / seconds,
        "peak_memory_bytes": memory,
        "passes_per_update": counted,
        "share_of_eager_bound": bound / seconds,
    }


def fastest(rows: Sequence[dict[str, Any]], name: str) -> int:
    """The batch size at which a method took the most images per second."""
    known = [row for row in rows if row["method"] == name and "images_per_second" in row]
    return int(max(known, key=lambda row: row["images_per_second"])["batch_size"])


def imagenet_passes(context: Context) -> dict[str, Any]:
    """Single passes of ResNet-50 on images of 224 pixels, bf16, and the generator's forward: for the cost model."""
    batch_size, size = (2, 32) if context.tiny else (128, 224)
    model = "small" if context.tiny else "imagenet-resnet50"
    workload = Workload(context.device, model, batch_size, bf16=True, size=size)
    generator = Generator(6, 3).to(context.device, memory_format=torch.channels_last).eval()
    h = torch.rand(batch_size, 6, size, size, device=context.device).to(memory_format=torch.channels_last)

    def propose(_: int) -> None:
        with torch.no_grad(), torch.autocast(context.device.type, dtype=torch.bfloat16):
            generator(h)

    repeats = 2 if context.tiny else 20
    return {
        "model": model,
        "batch_size": batch_size,
        "pass_seconds": pass_times(workload, repeats),
        "generator_seconds": devices_time(propose, context.device, repeats)[0],
    }


def literal(context: Context) -> dict[str, Any]:
    """FGSM-SDI against the literal published loop in fp32, side by side; both make the same update."""
    settings: list[tuple[str, dict[str, Any]]] = [
        ("literal fp32", {}),
        ("headstart fp32", {}),
        ("headstart bf16", {"bf16": True}),
        ("headstart bf16 graphs", {"bf16": True, "graphs": not context.tiny}),
    ]
    steps: dict[str, Callable[[int], Any]] = {}
    for name, setting in settings:
        workload = context.workload(128, **setting)
        steps[name] = literal_sdi_step(workload) if name.startswith("literal") else method_step(workload, "fgsm-sdi")
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):  # in turns, so that whatever else the machine does hits all alike
        for name, step in steps.items():
            rounds[name].append(devices_time(step, context.device, 4 if context.tiny else 40)[0])
    seconds = {name: sorted(times)[1] for name, times in rounds.items()}
    return {
        "batch_size": context.workload(128).batch_size,
        "seconds_per_update": seconds,
        "rounds": rounds,
        "speed_up": {name: seconds["literal fp32"] / s for name, s in seconds.items()},
    }
