"""The GPU battery: pieces of evidence, most valuable first, one JSON record each, resumable.

    python benchmarks/battery.py --data parquet:PATH/cifar10 --out benchmarks/results/DEVICE
    python benchmarks/battery.py --list

A piece whose record exists is skipped. Trainings that take longer than ``--minutes`` save their state and go on when
the battery is called again; AutoAttack on a whole test set is cut into pieces of a thousand images. ``--only`` names
pieces, ``--tiny`` shrinks all of them to a few steps of a small network, so that the battery itself can be tried on a
CPU. Pieces on CIFAR-100 and Tiny ImageNet need those sets: name them with ``--cifar100`` and ``--tiny_imagenet``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import Workload, devices_time, literal_sdi_step, method_step, pass_times
from headstart.core.threat import LInf
from headstart.data import load
from headstart.evaluation.evaluate import evaluate
from headstart.methods.registry import methods
from headstart.parts.generator import Generator
from headstart.recipes.reader import load_recipe
from headstart.runs.environment import environment
from headstart.runs.launch import Interrupted
from headstart.training.train import train

ROOT = Path(__file__).resolve().parents[1]
SLICE = 1000  # test images of one piece of AutoAttack
MEASURED = ("standard", "fgsm-rs", "fgsm-sdi", "sdi-memory", "pgd-at")


@dataclass(frozen=True)
class Context:
    """Where the battery runs, on what, and how large. ``data`` gives the sets by the name of their recipes."""

    data: dict[str, str]
    out: Path
    tiny: bool = False
    minutes: float = 8.0

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def workload(self, batch_size: int, model: str = "resnet18", **settings: Any) -> Workload:
        if self.tiny:
            return Workload(self.device, model="small", batch_size=8, **settings)
        return Workload(self.device, model=model, batch_size=batch_size, **settings)


Piece = Callable[[Context], dict[str, Any]]


# -- correctness ---------------------------------------------------------------------------------------------------


def contracts(context: Context) -> dict[str, Any]:
    """The contract tests and those marked for a GPU, run on this machine; they need the extra ``dev``."""
    chosen = (
        ["tests/contracts/test_methods.py", "-k", "fgsm-rs"] if context.tiny else ["tests/contracts", "tests/attacks"]
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return {
        "passed": done.returncode == 0,
        "summary": lines[-1] if lines else done.stderr[-500:],
        "failures": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
    }


def correctness(context: Context) -> dict[str, Any]:
    """Losses of three updates of every method in fp32 without TF32, on the CPU and on the device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    draw, rows = LInf.uniform, {}
    LInf.uniform = lambda self, like, *given: draw(self, like.cpu(), *given).to(like.device)  # type: ignore[method-assign]
    try:
        for name in methods():
            losses = []
            for device in ("cpu", str(context.device)):
                step = method_step(Workload(torch.device(device), "small", 8 if context.tiny else 64), name)
                torch.manual_seed(1)
                losses.append([float(step(k)) for k in range(3)])
            rows[name] = {"cpu": losses[0], "device": losses[1]}
            rows[name]["largest_difference"] = max(abs(a - b) for a, b in zip(*losses, strict=True))
    finally:
        LInf.uniform = draw  # type: ignore[method-assign]
        torch.backends.cudnn.allow_tf32 = True
    drawn_on_the_cpu = ["fgsm", "fgsm-rs", "fgsm-sdi", "n-fgsm", "pgd-at", "standard"]
    worst = max(rows[name]["largest_difference"] for name in drawn_on_the_cpu)
    return {"methods": rows, "worst_with_equal_random_numbers": worst, "passed": worst < 1e-3}


def graphs(context: Context) -> dict[str, Any]:
    """Losses of 50 updates, eager and replayed as CUDA graphs, of every method that gives a graph key."""
    rows = {}
    batch_size, updates = (8, 3) if context.tiny else (64, 50)
    with torch.cuda.stream(torch.cuda.Stream()) if context.device.type == "cuda" else nullcontext():
        for name in methods():
            probe = method_step(Workload(context.device, "small", batch_size), name)
            if probe.graph_key() is None:
                continue
            losses = []
            for replayed in (False, True):
                workload = Workload(context.device, "small", batch_size, graphs=replayed and not context.tiny)
                step = method_step(workload, name)
                torch.manual_seed(1)
                losses.append([float(step(k)) for k in range(updates)])
            recorded = getattr(step.run, "recordings", {})
            difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
            rows[name] = {"recordings": len(recorded), "largest_difference": difference, "last_loss": losses[0][-1]}
    return {"methods": rows}


# -- speed ---------------------------------------------------------------------------------------------------------


def throughput(batch_sizes: tuple[int, ...], names: Sequence[str] = MEASURED, **settings: Any) -> Piece:
    """Seconds per update, images/s, memory, and the share of the bound that the eager passes of that batch size set."""

    def piece(context: Context) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        passes = {}
        for batch_size in batch_sizes[:1] if context.tiny else batch_sizes:
            workload = context.workload(batch_size, bf16=True, **({} if context.tiny else settings))
            passes[batch_size] = pass_times(context.workload(batch_size, bf16=True), 2 if context.tiny else 20)
            for name in names:
                try:
                    step = method_step(workload, name)
                    seconds, memory = devices_time(step, context.device, 4 if context.tiny else 60)
                except torch.OutOfMemoryError:
                    rows.append({"method": name, "batch_size": batch_size, "out_of_memory": True})
                    continue
                counted = step.passes_per_update()
                bound = passes[batch_size]["optimizer"] + sum(
                    n * passes[batch_size][kind] for kind, n in counted.items()
                )
                row = {
                    "method": name,
                    "batch_size": workload.batch_size,
                    "seconds_per_update": seconds,
                    "images_per_second": workload.batch_size / seconds,
                    "peak_memory_bytes": memory,
                    "passes_per_update": counted,
                    "share_of_eager_bound": bound / seconds,
                }
                rows.append(row)
                print(row, flush=True)
        fastest = {
            name: max(
                (row for row in rows if row["method"] == name and "images_per_second" in row),
                key=lambda row: float(row["images_per_second"]),
            )["batch_size"]
            for name in names
        }
        return {
            "precision": "bf16",
            "settings": settings,
            "model": workload.model,
            "rows": rows,
            "eager_passes": passes,
            "fastest_batch_size": fastest,
        }

    return piece


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


# -- robustness ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A training by a recipe, 30 epochs unless said otherwise, and the pieces that evaluate it."""

    data: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """fgsm-sdi, fgsm-sdi-seed1, cifar100-liet, fgsm-rs-epsilon16, ..."""
        marks = [
            f"{key}{str(value).removesuffix('/255')}" for key, value in self.settings.items() if key != "eval_every"
        ]
        return "-".join([*([self.data] if self.data != "cifar10" else []), self.method, *marks])

    def folder(self, context: Context) -> Path:
        return context.out / "runs" / self.name

    def training(self, context: Context) -> dict[str, Any]:
        """Train, or go on training."""
        settings: dict[str, Any] = {"epochs": 30, "eval_every": 3} | self.settings
        if self.data in context.data:
            settings["data"] = context.data[self.data]
        if context.tiny:
            settings |= {"model": "small", "model_args": {}, "epochs": 1, "max_steps": 3, "precision": "fp32"}
        recipe = load_recipe(f"{self.data}/{self.method}", **settings)
        with stopped_after(context.minutes):
            result = train(recipe, self.folder(context), resume=self.folder(context).exists())
        return {"recipe": asdict(recipe), "cost": result.cost, "metrics": result.metrics}

    def evaluation(self, suite: str, images: slice) -> Piece:
        """Attack some of the test images; a call that is cut off leaves its finished attacks for the next."""

        def piece(context: Context) -> dict[str, Any]:
            images_now = slice(images.start, images.start + 8) if context.tiny else images
            name = f"{suite}-{images.start}"
            test = load(context.data.get(self.data, self.data), "test")
            fast = "tf32" if context.device.type == "cuda" else "fp32"
            result = evaluate(
                self.folder(context),
                suite="fgsm" if context.tiny else suite,
                data=test.take(images_now, f"{test.name}, test images from {images.start} on"),
                search_precision=fast,
                partial=self.folder(context) / f"{name}.partial.json",
            )
            return result.to_json(per_image=False)

        return piece

    def pieces(self, autoattack: int) -> dict[str, Piece]:
        """Training, PGD on all test images, AutoAttack on the first so many thousands, and their mean."""
        parts = {
            f"autoattack-{self.name}-{k + 1}": self.evaluation("standard", slice(k * SLICE, (k + 1) * SLICE))
            for k in range(autoattack)
        }
        return {
            f"train-{self.name}": self.training,
            **parts,
            f"autoattack-{self.name}": mean_of(list(parts)),
            f"pgd-{self.name}": self.evaluation("pgd", slice(0, None)),
        }


def mean_of(parts: list[str]) -> Piece:
    """The accuracies of several slices of a test set as those of all of them together."""

    def piece(context: Context) -> dict[str, Any]:
        records = [json.loads((context.out / f"{part}.json").read_text()) for part in parts]
        n = sum(record["n"] for record in records)

        def mean(value: Callable[[dict[str, Any]], float]) -> float:
            return sum(record["n"] * value(record) for record in records) / n

        return {
            "suite": records[0]["suite"],
            "n": n,
            "epsilon": records[0]["epsilon"],
            "clean": mean(lambda record: record["clean"]),
            "robust": mean(lambda record: record["robust"]),
            "attacks": {
                name: mean(lambda record, name=name: record["attacks"][name]) for name in records[0]["attacks"]
            },
            "warnings": sorted({warning for record in records for warning in record["warnings"]}),
            "seconds": sum(record["seconds"] for record in records),
        }

    return piece


@contextmanager
def stopped_after(minutes: float) -> Iterator[None]:
    """Inside, a training is told to save its state and stop once the time is up, as by SIGTERM."""

    def stop(number: int, frame: Any) -> None:  # before training listens, and after
        raise Interrupted

    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


PIECES: dict[str, Piece] = {
    "contracts": contracts,
    "correctness": correctness,
    "graphs": graphs,
    "throughput": throughput((128, 1024)),
    "throughput-graphs": throughput((128, 256, 512, 1024, 2048), graphs=True),
    "throughput-graphs-compiled": throughput(
        (128, 1024), ("standard", "fgsm-rs", "fgsm-sdi"), graphs=True, compiled=True
    ),
    "passes-imagenet": imagenet_passes,
    "literal": literal,
    **Run("cifar10", "fgsm-sdi").pieces(10),
    **Run("cifar10", "fgsm-rs").pieces(10),
    **Run("cifar10", "liet").pieces(10),
    **Run("cifar10", "pgd-at").pieces(10),
}
for _run in (
    Run("cifar10", "fgsm-sdi", {"epochs": 110, "eval_every": 10}),
    *(Run("cifar10", name, {"seed": seed}) for seed in (1, 2) for name in ("fgsm-sdi", "fgsm-rs")),
    *(Run("cifar100", name) for name in ("fgsm-sdi", "fgsm-rs", "liet")),
    *(Run("tiny-imagenet", name) for name in ("fgsm-sdi", "fgsm-rs")),
    *(Run("cifar10", name, {"epsilon": e}) for e in ("12/255", "16/255") for name in ("fgsm-sdi", "fgsm-rs", "liet")),
):
    PIECES |= _run.pieces(1)


def run(context: Context, names: Sequence[str]) -> Iterator[str]:
    """Run the pieces whose records do not exist yet."""
    for name in names:
        path = context.out / f"{name}.json"
        if path.exists():
            yield f"{name}: has a record"
            continue
        began = time.perf_counter()
        try:
            record = PIECES[name](context)
        except Interrupted:
            yield f"{name}: cut off after {context.minutes:g} minutes; call the battery again to go on"
            return
        record |= {"piece": name, "piece_seconds": time.perf_counter() - began, "tiny": context.tiny}
        record["environment"] = environment(context.device)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
        yield f"{name}: {record['piece_seconds']:.1f} s -> {path}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10: cifar10, or parquet:PATH")
    parser.add_argument("--cifar100", help="CIFAR-100: cifar100, or parquet:PATH; its pieces are left out without it")
    parser.add_argument("--tiny_imagenet", help="Tiny ImageNet, likewise")
    parser.add_argument("--out", type=Path, help="folder for the records")
    parser.add_argument("--only", nargs="*", choices=list(PIECES), default=list(PIECES), metavar="PIECE")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which a training is cut off, to be continued")
    parser.add_argument("--tiny", action="store_true", help="a few steps of a small network, to try the battery")
    parser.add_argument("--list", action="store_true", help="name the pieces and stop")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(PIECES))
        return
    if arguments.out is None:
        parser.error("--out is needed: the folder for the records")
    given = {"cifar10": arguments.data, "cifar100": arguments.cifar100, "tiny-imagenet": arguments.tiny_imagenet}
    left_out = [name for name, place in given.items() if place is None]
    chosen = [piece for piece in arguments.only if not any(f"-{name}-" in piece for name in left_out)]
    if len(chosen) < len(arguments.only):
        print(f"left out: the pieces on {' and '.join(left_out)}, which no flag names")
    context = Context({k: v for k, v in given.items() if v}, arguments.out, arguments.tiny, arguments.minutes)
    for line in run(context, chosen):
        print(line, flush=True)


if __name__ == "__main__":
    main()
