"""Whether training waits for its data: the second start, real batches against a fixed one, and the decode rate.

    python benchmarks/data.py --cifar10 PATH --out benchmarks/results/DEVICE/data.json

Second start: seconds to decode CIFAR-10 from parquet in a fresh process, and to have it again in the next. Resident
and streamed: seconds of the engine's update on batches from the loader and on one fixed batch, in turns, the median
over rounds; standard training, where an update is shortest, waits first. Decode rate: images per second of the
streamed loader alone, on JPEGs of mixed sizes made here, beside what that training would take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from headstart.data import Batch
from headstart.models import build_model
from headstart.recipes.recipe import Recipe
from headstart.runs.environment import environment
from headstart.runs.launch import make_fabric
from headstart.runs.store import RunStore
from headstart.training.feed import load_parts
from headstart.training.train import Trainer

START = """
import time
began = time.perf_counter()
from headstart.data import load
imported = time.perf_counter()
images = len(load({data!r}, "train")) + len(load({data!r}, "test"))
print(images, imported - began, time.perf_counter() - imported)
"""
CLASSES, LANDSCAPE, GREY = 10, 0.7, 0.02  # of the made photographs: classes, and shares that are wide, and grey


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    parser.add_argument("--cifar10", type=Path, default=Path(os.environ.get("HEADSTART_DATA", ".")) / "cifar10")
    parser.add_argument("--model", default="resnet18", help="trained on CIFAR-10")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--large_model", default="imagenet-resnet50", help="trained on the made photographs")
    parser.add_argument("--large_batch_size", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--photographs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=None, help="decoding processes; default one per core")
    parser.add_argument("--precision", default="bf16" if torch.cuda.is_available() else "fp32")
    parser.add_argument("--updates", type=int, default=10, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    shared = {"method": "standard", "precision": options.precision, "epochs": 1000}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HEADSTART_CACHE"] = str(folder / "cache")
        record: dict[str, Any] = {"second_start": second_start(options.cifar10)}
        small = Recipe(data=f"parquet:{options.cifar10}", model=options.model, batch_size=options.batch_size, **shared)
        record["resident"] = against_fixed(trainer(small, folder / "small"), options.updates, options.rounds)
        made = make_photographs(folder / "photographs", options.photographs)
        large = Recipe(
            data=f"folder:{folder / 'photographs'}",
            image_size=options.image_size,
            model=options.large_model,
            batch_size=options.large_batch_size,
            workers=options.workers,
            val_size=CLASSES,
            **shared,
        )
        streamed = trainer(large, folder / "large")
        record["streamed"] = made | decode_rate(streamed, options.rounds)
        record["streamed"] |= against_fixed(streamed, options.updates, options.rounds)
        record["streamed"]["images_per_second_needed"] = large.batch_size / record["streamed"]["seconds_fixed_batch"]
    record |= {"rounds": options.rounds, "updates_per_round": options.updates, "cores": os.cpu_count()}
    record["environment"] = environment("cuda" if torch.cuda.is_available() else "cpu")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def second_start(cifar10: Path) -> dict[str, float]:
    """Seconds until both splits are in memory: decoded in the first process, read back in three further ones."""
    program = START.format(data=f"parquet:{cifar10}")
    runs = []
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        runs.append([float(word) for word in done.stdout.split()])
    images, imports, seconds = zip(*runs, strict=True)
    return {
        "images": images[0],
        "first_seconds": seconds[0],
        "second_seconds": statistics.median(seconds[1:]),
        "import_seconds": statistics.median(imports[1:]),
    }


def trainer(recipe: Recipe, folder: Path) -> Trainer:
    """The engine's trainer, which is asked for single updates here."""
    train_set, val_set = load_parts(recipe)
    network = build_model(recipe.model, len(train_set.classes), train_set.shape[0])
    return Trainer(recipe, RunStore(folder), make_fabric(recipe, folder), network, train_set, val_set)


def against_fixed(trainer: Trainer, updates: int, rounds: int) -> dict[str, Any]:
    """Median seconds per update on batches from the loader and on one batch, in turns."""
    loaded = chain.from_iterable(trainer.loader.epoch(epoch) for epoch in count())
    fixed = next(loaded)
    times: dict[str, list[float]] = {"loader": [], "fixed_batch": []}
    stream = torch.cuda.stream(torch.cuda.Stream()) if trainer.device.type == "cuda" else nullcontext()
    with stream:  # as the engine does, where updates are recorded as CUDA graphs
        for number in range(rounds + 1):
            for kind, batches in (("loader", islice(loaded, updates)), ("fixed_batch", [fixed] * updates)):
                seconds = timed_updates(trainer, batches)
                if number:  # the first round warms up
                    times[kind].append(seconds / updates)
    middle = {f"seconds_{kind}": statistics.median(seconds) for kind, seconds in times.items()}
    recipe = trainer.recipe
    return {
        "model": recipe.model,
        "method": recipe.method,
        "batch_size": recipe.batch_size,
        "precision": recipe.precision,
        **middle,
        "ratio": middle["seconds_loader"] / middle["seconds_fixed_batch"],
    }


def timed_updates(trainer: Trainer, batches: Iterable[Batch]) -> float:
    began = time.perf_counter()
    for batch in batches:
        trainer.update(batch)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def decode_rate(trainer: Trainer, epochs: int) -> dict[str, Any]:
    """Images per second from the streamed loader when nobody trains; the start of its workers is not counted."""
    rates = []
    for epoch in range(epochs):
        batches = trainer.loader.epoch(epoch)
        next(batches)
        began = time.perf_counter()
        images = sum(len(batch.y) for batch in batches)
        rates.append(images / (time.perf_counter() - began))
    return {
        "workers": trainer.loader.workers,
        "image_size": trainer.loader.shape[1],
        "images_per_second_decoded": statistics.median(rates),
    }


def make_photographs(folder: Path, images: int) -> dict[str, float]:
    """JPEGs by class, about as large and as detailed as ImageNet's: 500x375 on average, 110 kB."""
    draw = np.random.default_rng(0)
    pixels = 0
    for i in range(images):
        long = int(np.exp(draw.normal(np.log(480), 0.25)))
        short = int(long * draw.uniform(0.6, 1))
        width, height = (long, short) if draw.random() < LANDSCAPE else (short, long)
        picture = photograph(width, height, draw)
        if draw.random() < GREY:
            picture = picture.convert("L")
        path = folder / "train" / f"class-{i % CLASSES}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=92)
        pixels += width * height
    size = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    return {"images": images, "mean_kilobytes": size / images / 1000, "mean_megapixels": pixels / images / 1e6}


def photograph(width: int, height: int, draw: np.random.Generator) -> Image.Image:
    """Noise whose detail falls off with its frequency, as in natural images."""
    picture = np.zeros((height, width, 3))
    for step in (64, 16, 4, 1):
        shape = (-(-height // step), -(-width // step), 3)
        coarse = Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))
        picture += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) * step**0.5
    picture -= picture.min()
    return Image.fromarray((picture / picture.max() * 255).astype(np.uint8))


if __name__ == "__main__":
    main()
