"""Robustness by processor seconds of training: what each ingredient of `cifar10-fast` is worth.

    python benchmarks/time_to_robustness.py --speed --out benchmarks/results/DEVICE/time-to-robustness
    python benchmarks/time_to_robustness.py --budget 60 --out benchmarks/results/DEVICE/time-to-robustness

A ladder is a list of steps of about the same processor seconds on one core (OMP_NUM_THREADS=1): each a recipe of the
library with fields changed, trained once per seed. Every step and seed has a record. Records that exist are kept, and
a run that was cut off goes on. Epochs are set by ``--speed``, which measures each network's updates, in turns; what a
step took is in its record. Accuracies are those of the last weights on the first test images. Without
``--budget`` nothing is trained: the tables of all records are written, which stand in docs/fast.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headstart.core import Clock, Step, Target, TaskInfo, distributed
from headstart.core.threat import ThreatModel
from headstart.evaluation.evaluate import evaluate
from headstart.evaluation.result import Evaluation
from headstart.methods.registry import build_method
from headstart.models import build_model
from headstart.recipes.reader import load_recipe, merge
from headstart.recipes.recipe import Recipe
from headstart.runs.environment import environment
from headstart.runs.files import write_text
from headstart.training.train import train

IMAGES = {15: 500, 60: 2000, 700: 2000, 1800: 5000, 7200: 500}  # first test images, for PGD-20, by ladder
IMAGES_AUTOATTACK = 1000
ATTACKED: dict[str, Any] = {"epsilon": "8/255", "search_precision": "bf16", "device": "cpu"}  # whatever it trained at
BATCH = 128
TURNS = 3  # of each network when speeds are measured; the fastest counts
TRAINED = {
    "val_size": 500,
    "eval_every": 1000,
    "watch_every": 0,
    "device": "cpu",
}  # nothing but training, one validation
BOOK = "cifar10-fast/"
START: dict[str, Any] = {
    "data": "cifar10",
    "epsilon": "8/255",
    "batch_size": 128,
    "optimizer": "muon",
    "lr": 0.05,
    "schedule": "triangular",
    "precision": "bf16",
}  # what its steps change, so that no step changes with what the book took from another


@dataclass(frozen=True)
class Rung:
    """A step of a ladder: a recipe, what is changed in it, and in words what is new.

    Attributes:
        recipe: of the book ``cifar10-fast`` only the method counts, and ``START`` for the rest.
        weights: the step of the same ladder whose training it shares: they differ in what takes no part in it, which
            is whether the network classifies with mirror images, and whether its weights are averaged.
    """

    what: str
    recipe: str
    fields: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def load(self, **more: Any) -> Recipe:
        """The recipe of the step, with further fields."""
        if not self.recipe.startswith(BOOK):
            return load_recipe(self.recipe, **{**self.fields, **more})
        return Recipe(**merge({**START, "method": self.recipe.removeprefix(BOOK)}, {**self.fields, **more}))


FAST = f"{BOOK}fgsm-rs"
SMALL = "cifar10-small/fgsm-rs"
STRIDED = {"widths": [64, 128, 256], "stride": 2}
WHITE: dict[str, Any] = {"whiten": True, "ridge": 5e-4}
LEARNED: dict[str, Any] = {"whiten": False}
SGD = {"optimizer": "sgd", "lr": 0.1, "average": 0.0}
SHORT = {**SGD, "epochs": 1, "model": "fast", "model_args": {**STRIDED, **WHITE}}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "small of cifar10-small": ("small", {"blocks": [1, 1, 1], "widths": [32, 64, 128], "stem_stride": 2}),
    "fast 64-128-256, stride 2": ("fast", STRIDED),
    "fast 32-64-128": ("fast", {"widths": [32, 64, 128]}),
    "fast 32-128-256": ("fast", {"widths": [32, 128, 256]}),
    "fast 64-128-256": ("fast", {"widths": [64, 128, 256]}),
    "fast 64-128-256, GELU": ("fast", {"widths": [64, 128, 256], "act": "gelu"}),
    "fast 64-256-256": ("fast", {"widths": [64, 256, 256]}),
    "preact-resnet18": ("preact-resnet18", {}),
}
WONG = Rung(
    "the PreActResNet-18 recipe of Wong et al., cut",
    "cifar10/fgsm-rs",
    {
        "model": "preact-resnet18",
        "schedule": "triangular",
        "lr": 0.2,
        "average": 0.0,
        "method_args": {"label_smoothing": 0.0},
    },
)


def narrow(what: str, model: dict[str, Any], method: str = "fgsm-rs", **fields: Any) -> Rung:
    """A step of the ladder of 15 seconds."""
    model_args = {"widths": [16, 32, 64], "stride": 2, **model}
    return Rung(what, f"{BOOK}{method}", {**SHORT, "model_args": model_args, **fields})


def baseline(**fields: Any) -> Rung:
    """The book `cifar10-small`, as precise as the others."""
    return Rung("`cifar10-small/n-fgsm` in bfloat16", "cifar10-small/n-fgsm", {"precision": "bf16", **fields})


PLAIN: dict[str, Any] = {"model": "fast", "model_args": {"widths": [64, 256, 256]}, "average": 0.0}


def parts(what: str, method: str = "n-fgsm", **fields: Any) -> Rung:
    """A step of the ladders of 60 and of 700 seconds, these a tenth of what two hours might be spent on."""
    return Rung(what, f"{BOOK}{method}", {**PLAIN, **fields})


MUON: dict[str, Any] = {"optimizer": "muon", "lr": 0.05}
HOURS: dict[str, Any] = {
    **MUON,
    "average": 0.999,
    "model": "fast",
    "model_args": {"widths": [64, 256, 256], "stride": 1, **LEARNED},
}
TWO_STEPS: dict[str, Any] = {"steps": 2, "relative_alpha": 0.625}  # PGD-AT
RESIDUAL_WHAT = "Muon, rate 0.05; residual, 64-128-256-512, blocks 1-2-2-1; N-FGSM; average of weights, 0.999"
RESIDUAL: dict[str, Any] = {
    **HOURS,
    "epochs": 14,
    "model": "preact-resnet18",
    "model_args": {"blocks": [1, 2, 2, 1], "widths": [64, 128, 256, 512]},
}
LARGER: dict[str, Any] = {"noise_scale": 2.5, "relative_alpha": 1.25}  # of 8/255, which is N-FGSM at 10/255
RESIDUAL_3_WHAT = (
    "Muon, rate 0.05; residual, 64-128-256, blocks 1-2-2; N-FGSM, noise and step of 10/255; average of weights, 0.999"
)
RESIDUAL_3: dict[str, Any] = {
    **RESIDUAL,
    "epochs": 19,
    "model_args": {"blocks": [1, 2, 2], "widths": [64, 128, 256]},
    "method_args": LARGER,
}
HALF_HOUR: dict[str, Any] = {
    **MUON,
    "epochs": 6,
    "average": 0.998,
    "epsilon": "10/255",
    "model": "preact-resnet18",
    "model_args": {"blocks": [1, 2, 2, 1], "widths": [32, 64, 128, 256], "stem": 32},
}


def half_hour(what: str, **fields: Any) -> Rung:
    """A step of the ladder of 1800 seconds: the network of two hours, half as wide, for a core without AMX."""
    return Rung(what, f"{BOOK}n-fgsm", {**HALF_HOUR, **fields})


def mirrored(step: str, rung: Rung) -> Rung:
    """The network of another step, which classifies an image with its mirror image."""
    model_args = {**rung.fields["model_args"], "mirrored": True}
    return Rung(f"{rung.what}; mirrored", rung.recipe, {**rung.fields, "model_args": model_args}, weights=step)


def live(step: str, rung: Rung) -> Rung:
    """The weights with which the training of another step ends, in place of their average."""
    return Rung(f"{rung.what}; not averaged", rung.recipe, {**rung.fields, "average": 0.0}, weights=step)


RAMP = half_hour("residual; N-FGSM, to 10/255 over half of the run", epsilon_ramp=0.5)
SMOOTH: dict[str, Any] = {**HALF_HOUR["model_args"], "act": "silu"}
SMOOTH_RAMP = Rung(
    "residual of half an hour, SiLU; N-FGSM, to 10/255 over half of the run; average of weights, 0.999",
    RAMP.recipe,
    {**RAMP.fields, "epochs": 20, "average": 0.999, "model_args": SMOOTH},
)
LADDERS: dict[int, dict[str, Rung]] = {
    15: {
        "small": Rung("`cifar10-small/fgsm-rs`", SMALL, {"epochs": 1, "samples": 11_500}),
        "whitened": narrow("SGD; first layer whitened", WHITE),
        "ridge": narrow("SGD; first layer whitened, ridge 0.01", {**WHITE, "ridge": 0.01}),
        "n-fgsm": narrow("SGD; first layer whitened; N-FGSM", WHITE, "n-fgsm"),
        "learned": narrow("SGD; first layer learned", LEARNED),
        "unscaled": narrow("SGD; first layer learned; logits not scaled", {**LEARNED, "scale": 1.0}),
        "ridge-muon": narrow("Muon, rate 0.05; whitened, ridge 0.01", {**WHITE, "ridge": 0.01}, **MUON),
        "learned-muon": narrow("Muon, rate 0.05; first layer learned", LEARNED, **MUON),
        "learned-muon-0.02": narrow("Muon, rate 0.02; first layer learned", LEARNED, **{**MUON, "lr": 0.02}),
        "learned-muon-0.1": narrow("Muon, rate 0.1; first layer learned", LEARNED, **{**MUON, "lr": 0.1}),
        "half-batch": narrow("Muon, rate 0.05; learned; batch 64", LEARNED, **MUON, batch_size=64),
        "muon-n-fgsm": narrow("Muon, rate 0.05; learned; N-FGSM", LEARNED, "n-fgsm", **MUON),
        "sdi-memory": narrow("Muon, rate 0.05; learned; remembered gradient", LEARNED, "sdi-memory", **MUON),
        "ramp": narrow(
            "Muon, rate 0.05; learned; epsilon rises over half of the run", LEARNED, **MUON, epsilon_ramp=0.5
        ),
        "average": narrow("Muon, rate 0.05; learned; average of weights, 0.98", LEARNED, **MUON, average=0.98),
    },
    60: {
        "small": baseline(epochs=2, samples=36_000),
        "wong": Rung(WONG.what, WONG.recipe, {**WONG.fields, "epochs": 1, "samples": 3800}),
        "fast-sgd": Rung("SGD; first layer whitened", FAST, SHORT),
        "strided": parts("`fast` 64-128-256, stride 2; Muon, N-FGSM", epochs=2, samples=36_000, model_args=STRIDED),
        "narrow": parts(
            "`fast` 32-128-256; Muon, N-FGSM", epochs=1, samples=42_000, model_args={"widths": [32, 128, 256]}
        ),
    },
    700: {
        "small": baseline(epochs=18),
        "wong": Rung(WONG.what, WONG.recipe, {**WONG.fields, "epochs": 1, "samples": 44_000}),
        "n-fgsm": parts("`fast` 64-256-256; N-FGSM", epochs=6),
        "residual": parts(
            "residual, blocks 1-2-2; N-FGSM",
            epochs=2,
            model="preact-resnet18",
            model_args={"blocks": [1, 2, 2], "widths": [64, 128, 256]},
        ),
        "strided": parts(
            "residual, stem of stride 2, blocks 2-2-2 of 128-256-256; N-FGSM",
            epochs=2,
            model="small",
            model_args={"blocks": [2, 2, 2], "widths": [128, 256, 256], "stem_stride": 2},
        ),
        "smooth": parts("`fast` 64-256-256; N-FGSM, smoothing 0.4", epochs=6, method_args={"label_smoothing": 0.4}),
        "epsilon-10": parts("`fast` 64-256-256; N-FGSM, trained at 10/255", epochs=6, epsilon="10/255"),
        "peak": parts("`fast` 64-256-256; N-FGSM, rate at its peak after a tenth", epochs=6, peak=0.1),
        "gelu": parts(
            "`fast` 64-256-256, GELU; N-FGSM", epochs=6, model_args={"widths": [64, 256, 256], "act": "gelu"}
        ),
        "decay": parts("`fast` 64-256-256; N-FGSM, weight decay 0.02", epochs=6, weight_decay=0.02),
        "pgd-2": parts("`fast` 64-256-256; PGD-AT of 2 steps", "pgd-at", epochs=4, method_args=TWO_STEPS),
    },
    1800: {
        "small": baseline(epochs=36),
        "wong": Rung(WONG.what, WONG.recipe, {**WONG.fields, "epochs": 2, "samples": 31_000}),
        "residual": half_hour("residual; N-FGSM at 10/255"),
        "silu": half_hour("residual, SiLU; N-FGSM at 10/255", model_args=SMOOTH),
        "sgd": half_hour("residual; N-FGSM at 10/255, SGD at rate 0.2", optimizer="sgd", lr=0.2),
        "shallow": half_hour(
            "residual, blocks 1-1-1-1; N-FGSM at 10/255",
            epochs=9,
            model_args={**HALF_HOUR["model_args"], "blocks": [1, 1, 1, 1]},
        ),
        "ramp": RAMP,
        "ramp-12": half_hour("residual; N-FGSM, to 12/255 over half of the run", epsilon_ramp=0.5, epsilon="12/255"),
        "ramp-long": half_hour("residual; N-FGSM, to 10/255 over four fifths of the run", epsilon_ramp=0.8),
        "mirrored": mirrored("ramp", RAMP),
        "live": live("ramp", RAMP),
    },
    7200: {
        "small": baseline(epochs=160),
        "wong": Rung(WONG.what, WONG.recipe, {**WONG.fields, "epochs": 9}),
        "muon-residual": Rung(RESIDUAL_WHAT, f"{BOOK}n-fgsm", RESIDUAL),
        "muon-residual-10": Rung(
            f"{RESIDUAL_WHAT}; trained at 10/255", f"{BOOK}n-fgsm", {**RESIDUAL, "epsilon": "10/255"}
        ),
        "muon-residual-gelu": Rung(
            f"{RESIDUAL_WHAT}; trained at 10/255, GELU",
            f"{BOOK}n-fgsm",
            {**RESIDUAL, "epochs": 12, "epsilon": "10/255", "model_args": {**RESIDUAL["model_args"], "act": "gelu"}},
        ),
        "muon-residual-3": Rung(RESIDUAL_3_WHAT, f"{BOOK}n-fgsm", RESIDUAL_3),
        "muon-residual-3-smooth": Rung(
            f"{RESIDUAL_3_WHAT}; weight decay 0.02, smoothing 0.1",
            f"{BOOK}n-fgsm",
            {**RESIDUAL_3, "weight_decay": 0.02, "method_args": {**LARGER, "label_smoothing": 0.1}},
        ),
        "silu-ramp": SMOOTH_RAMP,
        "silu-mirrored": mirrored("silu-ramp", SMOOTH_RAMP),
        "muon-n-fgsm": Rung(
            "Muon, rate 0.05; first layer learned; N-FGSM; average of weights, 0.999; epochs for a Xeon with AMX",
            f"{BOOK}n-fgsm",
            {**HOURS, "epochs": 52},
        ),
        "muon-mep": Rung(
            "Muon, rate 0.05; first layer learned; FGSM-MEP; average of weights, 0.999; epochs for a Xeon with AMX",
            f"{BOOK}fgsm-mep",
            {**HOURS, "epochs": 47},
        ),
        "muon-sdi": Rung(
            "Muon, rate 0.05; first layer learned; FGSM-SDI; average of weights, 0.999; epochs for a Xeon with AMX",
            f"{BOOK}fgsm-sdi",
            {**HOURS, "epochs": 42, "method_args": {"generator_width": 16, "relative_alpha": 0.5}},
        ),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure the networks' speed, and train nothing")
    parser.add_argument("--budget", type=int, choices=LADDERS, default=None, help="processor seconds of a ladder")
    parser.add_argument("--steps", nargs="+", default=None, help="of the ladder; default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--autoattack", action="store_true", help="attack with AutoAttack too: for steps that are kept")
    parser.add_argument("--data", default="cifar10", help="CIFAR-10")
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-robustness"), help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    arguments = parser.parse_args()
    if arguments.speed:
        write_text(arguments.out / "speed.json", json.dumps(speeds(), indent=1) + "\n")
    for name in (arguments.steps or LADDERS[arguments.budget]) if arguments.budget else []:
        for seed in arguments.seeds:
            climb(arguments.budget, name, seed, arguments)
    for mark, table in tables(arguments.out).items():
        print(f"<!-- table {mark} {arguments.out.parent.name} -->\n{table}<!-- /table -->\n")


def climb(budget: int, name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Make the record of a step, or add AutoAttack to it; what is there stays."""
    path = arguments.out / "steps" / f"{budget}-{name}-{seed}.json"
    run = arguments.work / f"{budget}-{LADDERS[budget][name].weights or name}-{seed}"
    record = json.loads(path.read_text()) if path.exists() else None
    if record is None:
        record = measured(budget, name, seed, run, arguments.data)
        write_text(path, json.dumps(record, indent=1) + "\n")
    if arguments.autoattack and record["autoattack"] is None:
        options: dict[str, Any] = {"data": arguments.data, "partial": run / f"{name}.partial"}
        found = attacked(run, record["recipe"], "standard", IMAGES_AUTOATTACK, **options)
        record |= {"autoattack": found.robust, "autoattack_images": found.n}
        if distributed.rank() == 0:  # under torchrun processes share the attack
            write_text(path, json.dumps(record, indent=1) + "\n")


def measured(budget: int, name: str, seed: int, run: Path, data: str) -> dict[str, Any]:
    """Train a step, and attack it by PGD-20."""
    rung = LADDERS[budget][name]
    recipe, trained = (
        step.load(**TRAINED, data=data, seed=seed) for step in (rung, LADDERS[budget][rung.weights or name])
    )
    result = train(trained, run, resume=run.exists(), progress=False)
    light = attacked(run, asdict(recipe), "light", IMAGES[budget], data=data, progress=False)
    return {
        "budget": budget,
        "step": name,
        "what": rung.what,
        "seed": seed,
        "processor_seconds": result.cost["training_processor_seconds"],
        "clean": light.clean,
        "pgd-20": light.attacks["pgd-20"],
        "images": light.n,
        "autoattack": None,
        "recipe_name": rung.recipe,
        "recipe": asdict(recipe),
        "cost": result.cost,
        "environment": environment(),
    }


def attacked(run: Path, recipe: dict[str, Any], suite: str, n: int, **options: Any) -> Evaluation:
    """The last weights of a run in the network of a recipe, on the first test images."""
    asked = {"suite": suite, "n": n, "model": recipe["model"], "model_args": recipe["model_args"], **ATTACKED}
    weights = "model-last.safetensors" if recipe["average"] else "checkpoints/last.pt"  # the latter are not averaged
    return evaluate(run / weights, **asked, **options)


def speeds() -> dict[str, Any]:
    """Images per processor second in updates of FGSM-RS without the optimiser's step, bf16, and passes' arithmetic."""
    torch.manual_seed(0)
    x, y = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.randint(0, 10, (BATCH,))
    networks = {name: build_model(model, 10, 3, args) for name, (model, args) in NETWORKS.items()}
    fastest = dict.fromkeys(networks, float("inf"))
    for _ in range(TURNS + 1):  # the first turn chooses algorithms
        for name, network in networks.items():
            fastest[name] = min(fastest[name], seconds_of_update(network, x, y))
    rows = {
        name: {
            "images_per_processor_second": BATCH / fastest[name],
            "million_multiplications": multiplications(network, x[:1]) / 1e6,
            "parameters": sum(p.numel() for p in network.parameters()),
        }
        for name, network in networks.items()
    }
    return {"batch_size": BATCH, "threads": torch.get_num_threads(), "networks": rows, "environment": environment()}


def seconds_of_update(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Processor seconds of perturbation, loss and backward."""
    threat = ThreatModel(8 / 255)
    method = build_method("fgsm-rs", TaskInfo(10, (3, 32, 32), threat, len(x), len(x), 1, 1))
    target = Target(network.to(memory_format=torch.channels_last), bf16=True)  # type: ignore[call-overload]
    began = time.process_time()
    method(target, Step(x, y, threat, Clock())).backward()
    spent = time.process_time() - began
    network.zero_grad()
    return spent


def multiplications(network: nn.Module, x: torch.Tensor) -> int:
    """Of the convolutions in the forward of one image (1, C, H, W)."""
    counts: list[int] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, _, out: counts.append(out[0].numel() * layer.weight[0].numel()))
    with torch.no_grad():
        network(x)
    return sum(counts)


def tables(folder: Path) -> dict[str, str]:
    """The tables of docs/fast.md by their marks, as Markdown: the networks' speed, and every ladder."""
    found = {}
    if (folder / "speed.json").exists():
        found["speed"] = speed_table(json.loads((folder / "speed.json").read_text())["networks"])
    records = [json.loads(path.read_text()) for path in sorted((folder / "steps").glob("*.json"))]
    for budget in sorted({record["budget"] for record in records}):
        found[str(budget)] = ladder([record for record in records if record["budget"] == budget])
    return found


def speed_table(networks: dict[str, dict[str, Any]]) -> str:
    """A row per network."""
    head = ("network", "parameters, M", "multiplications, M", "images per processor second", "G operations per second")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in networks.items():
        cells = (f"{row['parameters'] / 1e6:.2f}", f"{row['million_multiplications']:.0f}")
        rates = (f"{row['images_per_processor_second']:.0f}", f"{operations(row):.0f}")
        lines.append(f"| {name} | {' | '.join(cells + rates)} |")
    return "\n".join(lines) + "\n"


def operations(row: dict[str, Any]) -> float:
    """Billions per second: an update is worth five forwards (two, an input gradient, a backward of two)."""
    return float(5 * 2 * row["million_multiplications"] / 1e3 * row["images_per_processor_second"])


def ladder(records: list[dict[str, Any]]) -> str:
    """One ladder: the least robust step under PGD-20 first."""
    steps: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        steps.setdefault(record["step"], []).append(record)
    lines = [
        f"| step | seeds | epochs | processor, s | clean | PGD-20 ({records[0]['images']} images) | AutoAttack |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows in sorted(steps.values(), key=lambda rows: statistics.mean(row["pgd-20"] for row in rows)):
        attacked = [100 * row["autoattack"] for row in rows if row["autoattack"] is not None]
        some = f" ({len(attacked)} of {len(rows)} seeds)" if len(attacked) < len(rows) else ""
        epochs = rows[0]["recipe"]["epochs"] * (rows[0]["recipe"]["samples"] or 50_000) / 50_000
        lines.append(
            f"| {rows[0]['what']} | {len(rows)} | {epochs:.3g} | {cell((r['processor_seconds'] for r in rows), 0)} "
            f"| {cell(100 * r['clean'] for r in rows)} | {cell(100 * r['pgd-20'] for r in rows)} "
            f"| {cell(attacked) + some if attacked else '-'} |"
        )
    return "\n".join(lines) + "\n"


def cell(values: Iterable[float], decimals: int = 1) -> str:
    """Mean and, of several, sample deviation."""
    known = list(values)
    spread = f" ± {statistics.stdev(known):.{decimals}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{decimals}f}{spread}"


if __name__ == "__main__":
    main()
