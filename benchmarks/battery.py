"""The GPU battery: pieces of evidence, what decides most first, one JSON record each, resumable.

    python benchmarks/battery.py --data parquet:PATH/cifar10 --out benchmarks/results/DEVICE --minutes 9
    python benchmarks/battery.py --list

A call ends after ``--minutes``; the next one goes on. A piece whose record is complete is skipped. Trainings save their
state when time is up; AutoAttack on a whole test set goes a thousand images at a time, and its record says how many it
has. A model is attacked before the next is trained: no call leaves much that is trained and not attacked. Pieces of one
line of ``--list`` run side by side on a device. ``--only`` names pieces, ``--tiny`` shrinks all of them to a few steps
of a small network, so that the battery itself can be tried on a CPU. Pieces on further sets need them named:
``--tiny_imagenet_50``, ``--cifar100``, ``--tiny_imagenet``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pieces.context import Context, Piece, Unfinished
from benchmarks.pieces.correctness import contracts, correctness, graphs
from benchmarks.pieces.robustness import Run
from benchmarks.pieces.speed import imagenet_passes, literal, throughput
from headstart.errors import Interrupted
from headstart.runs.environment import environment
from headstart.runs.files import write_text

SETS = {
    "cifar10": "data",
    "cifar100": "cifar100",
    "tiny-imagenet": "tiny_imagenet",
    "tiny-imagenet-50": "tiny_imagenet_50",
}
BEST = "fgsm-sdi"  # the best recipe of one step on CIFAR-10 so far: docs/comparison.md


def _runs() -> Iterator[tuple[Run, ...]]:
    """Trainings, what decides most first; those of one tuple side by side."""
    # By the steps recorded in results/h100, side by side, these two are trained in some four minutes, the next two in
    # eleven: a quarter of an hour on a device leaves a pair that is attacked.
    yield Run("cifar10", "fgsm-rs"), Run("cifar10", BEST)
    paper = {"eval_every": 5}
    yield Run("cifar10-paper", "fgsm-rs", paper), Run("cifar10-paper", "fgsm-sdi", paper)
    yield Run("cifar10", "pgd-at"), Run("cifar10", "liet")
    yield Run("cifar10", "sdi-memory"), Run("cifar10", "n-fgsm")
    for seed in (1, 2):
        yield Run("cifar10", BEST, {"seed": seed}), Run("cifar10", "liet", {"seed": seed})
    for epsilon in ("12/255", "16/255"):
        yield tuple(Run("cifar10", name, {"epsilon": epsilon}) for name in ("fgsm-rs", BEST))
        yield tuple(Run("cifar10", name, {"epsilon": epsilon}) for name in ("fgsm-mep", "pgd-at"))
    yield tuple(Run("tiny-imagenet-50", name, book="tiny-imagenet") for name in ("fgsm-rs", BEST))
    for seed in (1, 2):
        yield (
            Run("cifar10-paper", "fgsm-rs", paper | {"seed": seed}),
            Run("cifar10-paper", "fgsm-sdi", paper | {"seed": seed}),
        )
    yield Run("cifar100", "fgsm-rs"), Run("cifar100", BEST)
    yield Run("tiny-imagenet", "fgsm-rs"), Run("tiny-imagenet", BEST)


# The marks of docs/fast.md, 15, 60 and 180 seconds: one at a time, since their seconds count, and validated at the end.
MARKS = [
    Run("cifar10-fast-gpu", "fgsm-rs", {"eval_every": 1000, "epochs": 8}),
    Run("cifar10-fast-gpu", "n-fgsm", {"eval_every": 1000}),
    Run("cifar10-fast-gpu", "n-fgsm", {"eval_every": 1000, "epochs": 100}),
]


def _stages() -> Iterator[dict[str, Piece]]:
    yield {"contracts": contracts}
    for number, together in enumerate(_runs()):
        yield {f"train-{run.name}": run.training for run in together}
        yield from ({f"autoattack-{run.name}": run.autoattack("best")} for run in together)
        yield from ({f"autoattack-{run.name}-last": run.autoattack("last")} for run in together)
        yield {f"pgd-{run.name}": run.attacked("pgd") for run in together}
        if number == 0:
            yield {f"evaluation-{together[0].name}": together[0].beside_plain}
        if number == 1:
            for mark in MARKS:
                yield {f"train-{mark.name}": mark.training}
                yield {f"autoattack-{mark.name}-last": mark.autoattack("last")}


STAGES: list[dict[str, Piece]] = [
    *_stages(),
    {"correctness": correctness},
    {"graphs": graphs},
    {"throughput": throughput((128, 1024))},
    {"throughput-graphs": throughput((128, 256, 512, 1024, 2048), graphs=True)},
    {
        "throughput-graphs-compiled": throughput(
            (128, 1024), ("standard", "fgsm-rs", "fgsm-sdi"), graphs=True, compiled=True
        )
    },
    {"passes-imagenet": imagenet_passes},
    {"literal": literal},
]
PIECES: dict[str, Piece] = {name: piece for stage in STAGES for name, piece in stage.items()}


def run(context: Context, names: Sequence[str]) -> Iterator[str]:
    """Run the pieces whose records are not complete yet; what became of each."""
    for name in names:
        path = context.out / f"{name}.json"
        if path.exists() and json.loads(path.read_text()).get("complete", True):
            yield f"{name}: has a record"
            continue
        began, complete = time.perf_counter(), True
        try:
            record = PIECES[name](context)
        except Interrupted:
            yield f"{name}: cut off; call the battery again to go on"
            return
        except Unfinished as unfinished:
            if unfinished.record is None:
                yield f"{name}: cut off; call the battery again to go on"
                return
            record, complete = unfinished.record, False
        record |= {"piece": name, "piece_seconds": time.perf_counter() - began, "tiny": context.tiny}
        record |= {"complete": complete, "environment": environment(context.device)}
        write_text(path, json.dumps(record, indent=1) + "\n")
        yield f"{name}: {record['piece_seconds']:.1f} s -> {path}{'' if complete else ' (so far)'}"
        if not complete:
            return


def side_by_side(names: Sequence[str], flags: Sequence[str], context: Context) -> Iterator[str]:
    """Run pieces at once, each in a process of its own; what became of each."""
    command = [sys.executable, __file__, *flags, "--minutes", f"{context.seconds_left() / 60:.3f}", "--only"]
    processes = {name: subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in names}
    for name, process in processes.items():
        said, _ = process.communicate()
        yield from said.splitlines()
        if process.returncode:
            yield f"{name}: failed with exit code {process.returncode}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(" ".join(stage) for stage in STAGES))
        return
    if arguments.out is None:
        parser.error("--out is needed: the folder for the records")
    sets = {name: getattr(arguments, flag) for name, flag in SETS.items()}
    missing = [name for name, place in sets.items() if place is None]
    context = Context(
        {name: place for name, place in sets.items() if place},
        arguments.out,
        arguments.tiny,
        time.monotonic() + 60 * arguments.minutes,
    )
    for stage in STAGES:
        names = [name for name in stage if name in arguments.only and not belongs(name, missing)]
        if not names:
            continue
        if context.seconds_left() <= 0:
            print("time is up; call the battery again to go on")
            return
        several = len(names) > 1 and not arguments.one_at_a_time
        for line in side_by_side(names, shared(arguments), context) if several else run(context, names):
            print(line, flush=True)


def belongs(name: str, sets: Sequence[str]) -> bool:
    """Whether a piece is on one of the sets."""
    found = max((data for data in SETS if f"-{data}-" in name), key=len, default="cifar10")
    return found in sets


def shared(arguments: argparse.Namespace) -> list[str]:
    """The flags of this call that pieces run by processes of their own are given too."""
    flags = [f"--{flag}={place}" for flag in SETS.values() if (place := getattr(arguments, flag))]
    return [*flags, f"--out={arguments.out}", *(["--tiny"] if arguments.tiny else [])]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="CIFAR-10: cifar10, or parquet:PATH")
    for name, flag in list(SETS.items())[1:]:
        parser.add_argument(f"--{flag}", help=f"{name}, likewise; its pieces are left out without it")
    parser.add_argument("--out", type=Path, help="folder for the records")
    parser.add_argument("--only", nargs="*", choices=list(PIECES), default=list(PIECES), metavar="PIECE")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which the call ends; the next goes on")
    parser.add_argument("--one_at_a_time", action="store_true", help="nothing side by side")
    parser.add_argument("--tiny", action="store_true", help="a few steps of a small network, to try the battery")
    parser.add_argument(
        "--list", action="store_true", help="name the pieces and stop; those of a line run side by side"
    )
    return parser


if __name__ == "__main__":
    main()
