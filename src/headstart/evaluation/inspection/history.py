"""What the record of a run says of every validation: accuracies, and how linear the loss was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headstart.errors import StorageError
from headstart.runs.folder import RunFolder


def history(folder: Path) -> list[dict[str, Any]]:
    """``{"epoch", "epsilon", "collapsed", "clean", "fgsm", "pgd"}`` of every validated epoch; ``"linearity"`` too
    where the run measured it, which those of earlier versions did not.

    Raises:
        StorageError: the record cannot be read.
    """
    path = RunFolder(folder).metrics
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [
            {**{key: row[key] for key in ("epoch", "epsilon", "collapsed")}, **row["val"]}
            for row in rows
            if row.get("val")
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} cannot be read as the record of a run ({error})") from error
