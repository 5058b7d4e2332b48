"""Robust fine-tuning of a pretrained network against robust training from scratch, at equal processor time.

    python benchmarks/finetune.py --data PATH --work FOLDER --out benchmarks/results/DEVICE/finetune.json

The photographs are those of 50 classes of Tiny ImageNet, at 32x32. A network is trained plainly on 40 classes, then
fine-tuned by FGSM-RS on the other ten. Beside it the same network is trained by FGSM-RS on the ten from fresh weights:
for as many updates as the fine-tuning, where the pretrained weights are to be had for nothing, and for as much
processor time as pretraining and fine-tuning together. AutoAttack measures all on the ten classes' 500 test images.

Started again, it goes on where it was: runs and attacks that are complete stay as they are.
"""

from __future__ import annotations

import argparse
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

import headstart
from headstart.runs.environment import environment

EVERY, SIDE = 5, 32  # every fifth class is held back for the fine-tuning; pixels
SHARED: dict[str, Any] = {
    "image_size": None,
    "epsilon": "4/255",
    "batch_size": 128,
    "val_size": 200,
    "eval_every": 1000,  # at the end alone: it costs as much as an epoch
    "precision": "bf16",
    "device": "cpu",
    "pad": 4,
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet": {
        "model": "small",
        "model_args": {"blocks": [1, 1, 1], "widths": [16, 32, 64], "stem_stride": 2, **IMAGENET},
    },
    "ViT": {
        "model": "timm:vit_tiny_patch16_224",
        "model_args": {"img_size": SIDE, "patch_size": 8, "depth": 4, "embed_dim": 64, "num_heads": 2},
        "precision": "fp32",  # so narrow, it is faster than bf16
    },
}
SGD = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "schedule": "one-cycle", "peak": 0.3}
ADAMW = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "schedule": "one-cycle", "peak": 0.2}
SCRATCH = {"ResNet": SGD, "ViT": ADAMW}
FINE_TUNING = {"ResNet": {"lr": 5e-3, "weight_decay": 5e-4}, "ViT": {"lr": 1e-3}}
PRETRAINING_EPOCHS, EPOCHS = 10, 12
WAYS = {
    "pretraining": "pretraining",
    "pretrained, fine-tuned": "fine-tuned",
    "from scratch, as many updates": "scratch",
    "from scratch, as much time in all": "scratch-longer",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the parquet files of tiny-imagenet-50")
    parser.add_argument("--work", type=Path, required=True, help="folder for images, runs and finished attacks")
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    options = parser.parse_args()
    split(options.data, options.work)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS:
        runs = trained(network, options.work)
        measured(runs["pretraining"], "fgsm")
        for path in list(runs.values())[1:]:
            options.out.write_text(json.dumps(recorded(options.work), indent=1) + "\n")
            measured(path, "standard")
    record = recorded(options.work)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(markdown(record))


def split(data: Path, work: Path) -> None:
    """Write the images as PNG, by class: folders ``pretraining`` and ``fine-tuning`` in ``work``."""
    done = work / "split"
    if done.exists():
        return
    for source, part in (("train", "train"), ("valid", "test")):
        (path,) = data.glob(f"{source}*.parquet")
        for i, line in enumerate(pq.read_table(path).to_pylist()):
            image = (
                Image.open(BytesIO(line["image"]["bytes"])).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
            )
            kind = "pretraining" if line["label"] % EVERY else "fine-tuning"
            folder = work / kind / part / f"class-{line['label']:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            image.resize((SIDE, SIDE), Image.Resampling.BOX).save(folder / f"{i:05d}.png")
    done.touch()


def trained(network: str, work: Path) -> dict[str, Path]:
    """The folders of a network's four runs by their way, trained now where they are not yet."""
    folders = runs_of(network, work)
    begun, tuned, same, longer = folders.values()
    train(begun, "photos/standard", network, SCRATCH[network], PRETRAINING_EPOCHS)
    train(tuned, "finetune/fgsm-rs", network, {**FINE_TUNING[network], "weights": str(begun)}, EPOCHS)
    train(same, "photos/fgsm-rs", network, SCRATCH[network], EPOCHS)
    whole = round(EPOCHS * (1 + cost(begun)["processor_seconds"] / cost(tuned)["processor_seconds"]))
    train(longer, "photos/fgsm-rs", network, SCRATCH[network], whole)
    return folders


def runs_of(network: str, work: Path) -> dict[str, Path]:
    """Where a network's runs are, by their way."""
    return {way: work / "runs" / f"{network}-{name}" for way, name in WAYS.items()}


def train(out: Path, recipe: str, network: str, fields: dict[str, Any], epochs: int) -> None:
    """Train a run to its end."""
    if not (out / "cost.json").exists():
        data = f"folder:{out.parents[1] / ('pretraining' if recipe.endswith('standard') else 'fine-tuning')}"
        given = {**SHARED, **NETWORKS[network], "average": 0.0, **fields, "epochs": epochs, "data": data}
        headstart.train(recipe, out, resume=out.exists(), **given)


def cost(run: Path) -> dict[str, Any]:
    """Of a run that has ended."""
    found: dict[str, Any] = json.loads((run / "cost.json").read_text())
    return found


def measured(run: Path, suite: str) -> None:
    """Attack all test images of a run, into a file of the suite's name."""
    done = run / f"{suite}.json"
    if not done.exists():
        found = headstart.evaluate(run, suite=suite, device="cpu", partial=run / f"{suite}.partial")
        done.write_text(json.dumps(found.to_json(per_image=False)))


def recorded(work: Path) -> dict[str, Any]:
    """The record of what is there by now: all runs that have ended, and the attacks that have."""
    rows = [
        {"network": network, "way": way, **ended(run)}
        for network in NETWORKS
        for way, run in runs_of(network, work).items()
        if (run / "cost.json").exists()
    ]
    classes = {"pretraining": 40, "fine-tuning": 10}
    return {"side": SIDE, "classes": classes, "rows": rows, "environment": environment("cpu")}


def ended(run: Path) -> dict[str, Any]:
    """Cost, accuracies on held-out images at the end, and the evaluation, null where it is still to come."""
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    found = [json.loads(path.read_text()) for path in (run / "standard.json", run / "fgsm.json") if path.exists()]
    spent = cost(run)
    return {
        "updates": spent["updates"],
        "processor_seconds": spent["processor_seconds"],
        "validation": last["val"],
        "evaluation": {**found[0], "request": {**found[0]["request"], "source": run.name}} if found else None,
    }


def markdown(record: dict[str, Any]) -> str:
    """The table of docs/finetune.md: the robust runs."""
    lines = [
        "| network | training | updates | processor, s | PGD-10, held out | clean | AutoAttack |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in record["rows"]:
        if r["way"] == "pretraining":
            before = f"{r['processor_seconds']:.0f} + "
            continue
        found = r["evaluation"]
        seconds = f"{before if 'tuned' in r['way'] else ''}{r['processor_seconds']:.0f}"
        attacked = f"{found['clean']:.1%} | {found['robust']:.1%}" if found else "not yet | not yet"
        lines.append(
            f"| {r['network']} | {r['way']} | {r['updates']} | {seconds} | {r['validation']['pgd']:.1%} | {attacked} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
