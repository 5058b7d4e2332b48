"""Runs as release files: one archive each, cut where a limit asks for it, and put together again.

    python benchmarks/release.py cut OUT/runs/cifar10-fgsm-sdi --to FOLDER --megabytes 15
    python benchmarks/release.py join FOLDER/cifar10-fgsm-sdi.tar.000 --to runs

Weights are too large for git. An archive holds both weights files, the recipe, the rows of training, its cost, and the
records of evaluations; training states stay behind. ``headstart evaluate`` takes the joined folder like the run it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from headstart.errors import StorageError, UserError
from headstart.runs.folder import RunFolder


def cut(run: Path, folder: Path, limit: int) -> list[Path]:
    """Archive a run and cut the archive into files of at most so many bytes; the files, the last their checksums.

    Raises:
        StorageError: the run is not finished.
    """
    if not RunFolder(run).weights.exists():
        raise StorageError(f"{run} has no {RunFolder(run).weights.name}: it is no finished run")
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{run.name}.tar"
    with tarfile.open(archive, "w") as tar:
        for path in sorted(run.iterdir()):
            if path.is_file() and path.suffix in (".safetensors", ".yaml", ".json", ".jsonl"):
                tar.add(path, f"{run.name}/{path.name}")
    content = archive.read_bytes()
    archive.unlink()
    parts = []
    for k, start in enumerate(range(0, len(content), limit)):
        parts.append(folder / f"{archive.name}.{k:03d}")
        parts[-1].write_bytes(content[start : start + limit])
    sums = {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts}
    parts.append(folder / f"{archive.name}.json")
    parts[-1].write_text(json.dumps(sums, indent=1) + "\n")
    return parts


def join(first: Path, folder: Path) -> Path:
    """Put an archive's files together again and unpack it; the run's folder.

    Raises:
        StorageError: a file is missing or damaged, or the folder exists.
    """
    sums: dict[str, str] = json.loads(first.with_suffix(".json").read_text())
    archive = folder / first.with_suffix("").name
    run = folder / first.with_suffix("").stem
    if run.exists():
        raise StorageError(f"{run} exists; choose another folder")
    content = b""
    for name, expected in sums.items():
        part = first.with_name(name)
        if not part.exists() or hashlib.sha256(part.read_bytes()).hexdigest() != expected:
            raise StorageError(f"{part} is missing or damaged; fetch it again")
        content += part.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(content)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    return run


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cut", "join"])
    parser.add_argument("source", type=Path, help="a run's folder, or the first file of an archive")
    parser.add_argument("--to", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--megabytes", type=float, default=100.0, help="largest file")
    given = parser.parse_args(argv)
    try:
        if given.what == "cut":
            print("\n".join(map(str, cut(given.source, given.to, int(given.megabytes * 2**20)))))
        else:
            print(join(given.source, given.to))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
