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
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pieces.context import Context, Piece
from benchmarks.pieces.correctness import contracts, correctness, graphs
from benchmarks.pieces.robustness import Run
from benchmarks.pieces.speed import imagenet_passes, literal, throughput
from headstart.errors import Interrupted
from headstart.runs.environment import environment

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
    parser = make_parser()
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


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10: cifar10, or parquet:PATH")
    parser.add_argument("--cifar100", help="CIFAR-100: cifar100, or parquet:PATH; its pieces are left out without it")
    parser.add_argument("--tiny_imagenet", help="Tiny ImageNet, likewise")
    parser.add_argument("--out", type=Path, help="folder for the records")
    parser.add_argument("--only", nargs="*", choices=list(PIECES), default=list(PIECES), metavar="PIECE")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which a training is cut off, to be continued")
    parser.add_argument("--tiny", action="store_true", help="a few steps of a small network, to try the battery")
    parser.add_argument("--list", action="store_true", help="name the pieces and stop")
    return parser


if __name__ == "__main__":
    main()
