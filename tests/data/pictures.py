"""Parquet files as the hub has them, made on the spot."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Cell = dict[str, Any] | None


def pixels(n: int, size: tuple[int, int] = (8, 6), channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random images (N, H, W, C), or (N, H, W) of one channel; uint8."""
    shape = (n, *size, 3) if channels == 3 else (n, *size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG") -> Cell:
    """A cell of an image column."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    picture.save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return {"bytes": stream.getvalue(), "path": None}


def write(
    path: Path,
    cells: Sequence[Cell],
    labels: Sequence[int | None],
    names: Sequence[str] | None = None,
    image: str = "img",
    label: str = "label",
    group: int | None = None,
    **further: Any,
) -> Path:
    """A parquet file with an image and a label column, ClassLabel names in the schema, and further columns.

    Args:
        group: rows in a row group; default all.
    """
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[str, Any] = {image: pa.array(cells, struct), label: pa.array(labels, pa.int64()), **further}
    table = pa.table(columns)
    features: dict[str, Any] = {image: {"_type": "Image"}}
    if names is not None:
        features[label] = {"names": list(names), "_type": "ClassLabel"}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture of a size, which survives JPEG."""
    coarse = Image.fromarray(pixels(1, (3, 4), seed=seed)[0])
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def write_photographs(folder: Path, classes: Sequence[str] = ("cat", "dog", "owl"), each: int = 6) -> Path:
    """JPEGs of mixed sizes in a folder per class; those of a class share a hue."""
    sizes = np.random.default_rng(0).integers(20, 60, (len(classes), each, 2)).tolist()
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, (width, height) in enumerate(sizes[k]):
            picture = np.asarray(photograph(width, height, seed=100 * k + i)) // 2
            picture[..., k % 3] += 120
            Image.fromarray(picture).save(folder / name / f"{i}.jpg", quality=95)
    return folder
