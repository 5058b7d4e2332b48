"""Hours of ImageNet training on 1, 8 and 64 GPUs, predicted from what one GPU was measured to do.

    python benchmarks/cost_model.py --out benchmarks/results/cost_model.json

An update of a method costs its passes through ResNet-50 and through the generator, where it has one, and the
all-reduce of the gradients. Seconds of a pass come from a record of single passes on one GPU. Until a GPU has run the
battery's piece ``passes-imagenet``, that is the record of ResNet-18 at 32x32, carried over in two ways: by
floating-point operations, too fast since ResNet-50 has less arithmetic for every value it moves, and by values
written, too slow where arithmetic is what takes the time. The truth lies between the two as far as the networks
differ in nothing else.

Assumed: the gradients' all-reduce hides behind nothing; a ring, so 2 (n - 1) / n times the gradient's bytes pass
every link; links as given by flags; images are decoded in time, by as many cores as the last column says, each at the
rate measured here; no time for validation and checkpoints.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import INTERVAL, MethodStep, Workload
from headstart.data.streamed import random_crop
from headstart.models import build_model
from headstart.parts.generator import Generator, GeneratorInit
from headstart.recipes.reader import load_recipe
from headstart.runs.environment import environment

METHODS = ("standard", "fgsm-rs", "sdi-memory", "fgsm-sdi", "pgd-at")
IMAGES, CLASSES, SIZE = 1_281_167, 1000, 224  # of ImageNet's training set
GPUS, PER_NODE = (1, 8, 64), 8
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Work:
    """What one image asks of a network's forward: floating-point operations, and values its convolutions write."""

    flops: float
    values: float


def work(network: nn.Module, shape: tuple[int, int, int]) -> Work:
    """Counted on an image without content; ``network`` must be on the device "meta"."""
    values = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal values
        values += output.numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, *shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return Work(counter.get_total_flops(), values)


@dataclass(frozen=True)
class Passes:
    """Seconds of the passes of one image through ResNet-50, and of a generator's forward; and how they are known."""

    source: str
    forwards: float
    input_gradients: float
    backwards: float
    generator: float

    @property
    def generator_update(self) -> float:
        """A forward and a backward, which costs about two."""
        return 3 * self.generator


def known_passes(folder: Path) -> list[Passes]:
    """Measured for the network itself if there is a record of it, else carried over from ResNet-18 in two ways."""
    with torch.device("meta"):
        network, small = build_model("imagenet-resnet50", CLASSES), build_model("resnet18", 10)
        generator = Generator(6, 3)
    large, other = work(network, (3, SIZE, SIZE)), work(generator, (6, SIZE, SIZE))
    own = folder / "passes-imagenet.json"
    if own.exists():
        record = json.loads(own.read_text())
        per_image = {kind: seconds / record["batch_size"] for kind, seconds in record["pass_seconds"].items()}
        return [
            Passes(
                f"measured, {record['environment']['device']}",
                *(per_image[kind] for kind in ("forwards", "input_gradients", "backwards")),
                generator=record["generator_seconds"] / record["batch_size"],
            )
        ]
    record = json.loads((folder / "throughput-graphs.json").read_text())
    batch_size = 1024
    seconds = record["eager_passes"].get(str(batch_size), record["eager_passes"])  # the older record has no other size
    base = work(small, (3, 32, 32))
    carried = []
    for source, measure in (("by operations", "flops"), ("by values written", "values")):
        scale, generated = (getattr(w, measure) / getattr(base, measure) / batch_size for w in (large, other))
        carried.append(
            Passes(
                f"ResNet-18 {source}, {record['environment']['device']}",
                *(seconds[kind] * scale for kind in ("forwards", "input_gradients", "backwards")),
                generator=seconds["forwards"] * generated,
            )
        )
    return carried


@dataclass(frozen=True)
class Method:
    """Passes of an update, and parameters of a generator."""

    name: str
    passes: dict[str, float]
    generator_parameters: int


def counted(name: str) -> Method:
    """Counted by the library over an interval of updates of a small network; passes are those of any network."""
    step = MethodStep(Workload(torch.device("cpu"), "small", 2), name)
    init = step.method.init
    learned = sum(p.numel() for p in init.generator.parameters()) if isinstance(init, GeneratorInit) else 0
    return Method(name, step.passes_per_interval(), learned)


@dataclass(frozen=True)
class Links:
    """Bytes per second that a GPU sends to its neighbour, within a node and between nodes."""

    within: float
    between: float


def update_seconds(method: Method, passes: Passes, batch_size: int) -> float:
    """One update on one GPU, ``batch_size`` images; the optimiser's share is left out."""
    per_image = sum(
        method.passes[kind] * getattr(passes, kind) for kind in ("forwards", "input_gradients", "backwards")
    )
    if method.generator_parameters:
        per_image += passes.generator + passes.generator_update / INTERVAL
    return batch_size * per_image


def reduced_bytes(method: Method, parameters: int) -> float:
    """Gradients summed over processes in an update, fp32; the generator's every ``INTERVAL`` updates."""
    return 4 * (parameters + method.generator_parameters / INTERVAL)


def reduce_seconds(size: float, gpus: int, links: Links) -> float:
    """A ring all-reduce of ``size`` bytes, its slowest link deciding."""
    return 2 * (gpus - 1) / gpus * size / (links.between if gpus > PER_NODE else links.within)


def predict(
    method: Method, passes: Passes, *, gpus: int, batch_size: int, epochs: int, parameters: int, links: Links
) -> dict[str, float]:
    """Hours of a run, the share of it in which gradients are summed, and images per second of one GPU."""
    compute = update_seconds(method, passes, batch_size)
    reduce = reduce_seconds(reduced_bytes(method, parameters), gpus, links)
    updates = epochs * IMAGES / (batch_size * gpus)
    return {
        "hours": updates * (compute + reduce) / 3600,
        "reduce_share": reduce / (compute + reduce),
        "images_per_second_per_gpu": batch_size / (compute + reduce),
    }


def decode_rate(images: int = 40) -> dict[str, float]:
    """Images per CPU second, decoded and cropped as the streamed loader does: JPEGs of 500x375, ImageNet's mean size.

    The file is of noise with a natural image's fall of contrast towards fine detail.
    """
    noise = np.random.default_rng(0)
    layers = [noise.normal(0, 30, (375 // s + 1, 500 // s + 1, 3)) / (1 if s > 1 else 4) for s in (64, 16, 4, 1)]
    grown = [np.kron(layer, np.ones((s, s, 1)))[:375, :500] for layer, s in zip(layers, (64, 16, 4, 1), strict=True)]
    file = io.BytesIO()
    Image.fromarray((128 + sum(grown)).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    draw = random.Random(0)
    began = time.process_time()
    for _ in range(images):
        random_crop(file.getvalue(), SIZE, draw)
    return {"images_per_core_second": images / (time.process_time() - began), "bytes_of_a_file": len(file.getvalue())}


def main(argv: Sequence[str] | None = None) -> None:
    recipe = load_recipe("imagenet/fgsm-sdi")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    parser.add_argument("--records", type=Path, default=RESULTS / "h100", help="folder of one GPU's battery records")
    parser.add_argument("--epochs", type=int, default=recipe.epochs, help="default: the ImageNet recipes'")
    parser.add_argument("--batch_size", type=int, default=recipe.batch_size, help="per GPU; default: the recipes'")
    parser.add_argument("--within", type=float, default=150e9, help="bytes/s between GPUs of a node")
    parser.add_argument("--between", type=float, default=25e9, help="bytes/s of a GPU's share of the network")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # decode rates are of one core
    links = Links(arguments.within, arguments.between)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_model("imagenet-resnet50", CLASSES).parameters())
    decoding = decode_rate()
    rows = []
    for passes in known_passes(arguments.records):
        for method in map(counted, METHODS):
            for gpus in GPUS:
                row = predict(
                    method,
                    passes,
                    gpus=gpus,
                    batch_size=arguments.batch_size,
                    epochs=arguments.epochs,
                    parameters=parameters,
                    links=links,
                )
                cores = row["images_per_second_per_gpu"] / decoding["images_per_core_second"]
                row |= {"cores_per_gpu": cores, "reduced_bytes": reduced_bytes(method, parameters)}
                rows.append({"method": method.name, "gpus": gpus, "passes_from": passes.source, **row})
    record = {
        "epochs": arguments.epochs,
        "batch_size_per_gpu": arguments.batch_size,
        "parameters": parameters,
        "links": asdict(links),
        "decoding": decoding,
        "pass_seconds_per_image": [asdict(passes) for passes in known_passes(arguments.records)],
        "rows": rows,
        "environment": environment(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    table = Table()
    for k, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if k else "left")
    for cells in summary(record):
        table.add_row(*cells)
    Console(width=110).print(table)


HEADINGS = ("method", *(f"hours, {gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS), "summing, 64 GPUs", "cores per GPU")


def summary(record: dict[str, Any]) -> list[list[str]]:
    """One line of cells per method, as under ``HEADINGS``; a range where the passes are known in two ways."""
    lines = []
    for name in METHODS:
        rows = [row for row in record["rows"] if row["method"] == name]
        hours = [span(row["hours"] for row in rows if row["gpus"] == gpus) for gpus in GPUS]
        share = span(100 * row["reduce_share"] for row in rows if row["gpus"] == GPUS[-1])
        lines.append([name, *hours, f"{share} %", span(row["cores_per_gpu"] for row in rows if row["gpus"] == 1)])
    return lines


def span(numbers: Iterable[float]) -> str:
    """One number, or the range of several, to two figures."""
    ends = sorted(numbers)
    return " to ".join(dict.fromkeys(f"{n:.0f}" if n >= 10 else f"{n:.2g}" for n in (ends[0], ends[-1])))


if __name__ == "__main__":
    main()
