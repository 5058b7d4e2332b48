"""The demo with several seeds, all 500 test images attacked: the table of the README.

python benchmarks/demo_seeds.py --out benchmarks/results/DEVICE/demo_seeds.json --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from headstart.campaigns.demo import SHOWN, run_demo
from headstart.campaigns.folders import DemoFolder

COLUMNS = ("clean", "fgsm", "pgd", "autoattack", "processor_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    demos = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            demo = run_demo(Path(folder), seed, n=500)
            details = json.loads(DemoFolder(Path(folder)).details.read_text())
            demos.append({**demo, "collapse": details["collapse"], "passes": details["passes"]})
    record: dict[str, Any] = {"demos": demos, "summary": summary(demos)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(markdown(record["summary"]))


def summary(demos: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and sample standard deviation of every column, by method."""
    rows = {m: [next(r for r in d["results"] if r["method"] == m) for d in demos] for m in SHOWN}
    return {
        m: {
            c: {"mean": statistics.mean(r[c] for r in rs), "deviation": statistics.stdev(r[c] for r in rs)}
            for c in COLUMNS
        }
        for m, rs in rows.items()
    }


def markdown(methods: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = ["| method | clean | FGSM | PGD-20 | AutoAttack | processor, s |", "|---|---|---|---|---|---|"]
    for name, columns in methods.items():
        cells = []
        for column, value in columns.items():
            scale = 1 if column == "processor_seconds" else 100
            cells.append(f"{scale * value['mean']:.1f} ± {scale * value['deviation']:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
