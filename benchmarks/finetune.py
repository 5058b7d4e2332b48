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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the parquet files of tiny-imagenet-50")
    parser.add_argument("--work", type=Path, required=True, help="folder for images, runs and finished attacks")
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    options = parser.parse_args()
    split(options.data, options.work)
    record: dict[str, Any] = {
        "data": {"side": SIDE, "classes": {"pretraining": 40, "fine-tuning": 10}, "test_images": 500},
        "pretraining": [],
        "rows": [],
        "environment": environment("cpu"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS:
        runs = trained(network, options.work)
        record["pretraining"].append(pretraining(network, options.work))
        for way, path in runs.items():
            record["rows"].append(row(network, way, path, options.work))
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
    """The folders of the three robust runs of a network, trained now where they are not yet, by their way."""
    begun = train(f"{network}-pretraining", "photos/standard", work, network, SCRATCH[network], PRETRAINING_EPOCHS)
    fine = {**FINE_TUNING[network], "weights": str(begun)}
    tuned = train(f"{network}-fine-tuned", "finetune/fgsm-rs", work, network, fine, EPOCHS)
    longer = round(EPOCHS * (1 + processor_seconds(begun) / processor_seconds(tuned)))
    fresh = {**SCRATCH[network], "average": 0.0}
    return {
        "pretrained, fine-tuned": tuned,
        "from scratch, as many updates": train(f"{network}-scratch", "photos/fgsm-rs", work, network, fresh, EPOCHS),
        "from scratch, as much time in all": train(
            f"{network}-scratch-longer", "photos/fgsm-rs", work, network, fresh, longer
        ),
    }


def train(name: str, recipe: str, work: Path, network: str, fields: dict[str, Any], epochs: int) -> Path:
    """A run's folder; trained to its end."""
    out = work / "runs" / name
    if not (out / "cost.json").exists():
        data = f"folder:{work / ('pretraining' if recipe.endswith('standard') else 'fine-tuning')}"
        given = {**SHARED, **NETWORKS[network], "average": 0.0, **fields, "epochs": epochs, "data": data}
        headstart.train(recipe, out, resume=out.exists(), **given)
    return out


def processor_seconds(run: Path) -> float:
    """Of the process that trained."""
    return float(json.loads((run / "cost.json").read_text())["processor_seconds"])


def pretraining(network: str, work: Path) -> dict[str, Any]:
    """What the plain training reached on the 40 classes, and what it cost."""
    run = work / "runs" / f"{network}-pretraining"
    clean = headstart.evaluate(run, suite="fgsm", device="cpu").clean
    return {"network": network, "clean": clean, "processor_seconds": processor_seconds(run)}


def row(network: str, way: str, run: Path, work: Path) -> dict[str, Any]:
    """Accuracies of a robust run on the ten classes' test images, and its cost."""
    done = run / "autoattack.json"
    if not done.exists():
        partial = run / "autoattack.partial"
        found = headstart.evaluate(run, suite="standard", device="cpu", partial=partial).to_json(per_image=False)
        done.write_text(json.dumps(found))
    evaluation = json.loads(done.read_text())
    cost = json.loads((run / "cost.json").read_text())
    before = processor_seconds(work / "runs" / f"{network}-pretraining") if way.startswith("pretrained") else 0.0
    return {
        "network": network,
        "way": way,
        "clean": evaluation["clean"],
        "robust": evaluation["robust"],
        "processor_seconds": cost["processor_seconds"],
        "pretraining_processor_seconds": before,
        "updates": cost["updates"],
        "evaluation": evaluation,
    }


def markdown(record: dict[str, Any]) -> str:
    """The table of docs/finetune.md."""
    lines = [
        "| network | training | processor, s | and before, s | clean | AutoAttack |",
        "|---|---|---|---|---|---|",
    ]
    for r in record["rows"]:
        seconds = f"{r['processor_seconds']:.0f} | {r['pretraining_processor_seconds']:.0f}"
        lines.append(f"| {r['network']} | {r['way']} | {seconds} | {r['clean']:.1%} | {r['robust']:.1%} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
