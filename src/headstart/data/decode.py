"""Encoded images in Arrow tables to one uint8 tensor, in parallel, and a cache of the result."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headstart.data.images import ImageSet
from headstart.errors import UserError

CACHE_VERSION = "1"


def read_parquet(files: Sequence[Path], name: str, on_bad_image: str) -> ImageSet:
    """Decode parquet files, or read what an earlier call decoded from files of the same content."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {on_bad_image}".encode())
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    cached = cache_folder() / f"{digest.hexdigest()[:32]}.safetensors"
    if cached.exists():
        try:
            return _read_cache(cached, name)
        except (SafetensorError, UserError, ValueError, LookupError, TypeError, OSError):
            pass  # cut short or damaged since; decoded again and replaced below
    try:
        table = pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: cannot read {', '.join(map(str, files))} as parquet ({reason})") from error
    images, note = _decode_table(table, name, on_bad_image)
    try:
        _write_cache(cached, images, note)
    except (OSError, SafetensorError) as error:
        print(f"{name}: the decoded images are not kept for the next time ({error})", file=sys.stderr)
    return images


def cache_folder() -> Path:
    """Where decoded sets are kept: $HEADSTART_CACHE, or headstart/ in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "headstart"
    return Path(os.environ.get("HEADSTART_CACHE", default))


def decode_table(table: pa.Table, name: str, on_bad_image: str) -> ImageSet:
    """Decode the image column of a table; the columns are found by the hub's conventions.

    The image column is the one of type struct<bytes, path>; the label column is "label", "labels" or ends in
    "label" and holds integers. Class names come from the hub's schema where it has them.
    """
    return _decode_table(table, name, on_bad_image)[0]


def _decode_table(table: pa.Table, name: str, on_bad_image: str) -> tuple[ImageSet, str]:
    """The images, and a line on those that were left out, empty if none was."""
    if table.num_rows == 0:
        raise UserError(f"{name}: the split is empty; it needs at least one image")
    image_column = _only([f.name for f in table.schema if pa.types.is_struct(f.type)], "image", name, table)
    integers = [f.name for f in table.schema if pa.types.is_integer(f.type)]
    named = [c for c in integers if c in ("label", "labels", "fine_label")]
    label_column = _only(named or [c for c in integers if c.endswith("label")], "label", name, table)

    rows = table.column(image_column).to_pylist()
    bad: dict[int, str] = {}

    def decode(row: int) -> np.ndarray | None:
        try:
            return _decode(rows[row] or {})
        except Exception as error:  # decoders of damaged images raise of every kind: SyntaxError, struct.error, ...
            bad[row] = str(error) or type(error).__name__
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = list(pool.map(decode, range(len(rows)), chunksize=64))
    if bad and on_bad_image == "error":
        row = min(bad)
        raise UserError(
            f"{name}: the image in row {row} cannot be read ({bad[row]}); --on_bad_image skip leaves it out"
        )
    if len(bad) == len(rows):
        raise UserError(f"{name}: none of {len(rows)} images can be read ({bad[0]})")
    note = ""
    if bad:
        note = f"{len(bad)} of {len(rows)} images cannot be read and are left out, the first in row {min(bad)}"
        print(f"{name}: {note}", file=sys.stderr)
    labels = _labels(table, label_column, name)
    names = _class_names(table, label_column) or tuple(str(k) for k in range(int(labels.max()) + 1))
    kept = torch.tensor([row for row in range(len(rows)) if row not in bad])
    pixels = torch.from_numpy(_stack(images, name))
    return ImageSet(pixels, labels[kept], names, name), note


def _labels(table: pa.Table, column: str, name: str) -> torch.Tensor:
    """The label column, int64 (N,)."""
    labels = table.column(column)
    if labels.null_count:
        row = labels.is_null().to_pylist().index(True)
        raise UserError(f"{name}: row {row} has no {column}")
    return torch.from_numpy(labels.to_numpy().astype(np.int64))


def _decode(cell: dict[str, Any]) -> np.ndarray:
    """One image as (H, W, 1 or 3) uint8, its EXIF orientation applied."""
    data, path = cell.get("bytes"), cell.get("path")
    if data is None and not path:
        raise ValueError("no image there")
    source: Any = io.BytesIO(data) if data is not None else path
    with Image.open(source) as opened:
        image = ImageOps.exif_transpose(opened)
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
        pixels = np.asarray(image, dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _stack(images: list[np.ndarray | None], name: str) -> np.ndarray:
    """The images that are there in one array; grey ones among colour ones become RGB."""
    good = [image for image in images if image is not None]
    size, channels = good[0].shape[:2], max(image.shape[2] for image in good)
    for row, image in enumerate(images):
        if image is not None and image.shape[:2] != size:
            raise UserError(
                f"{name}: the image in row {row} is {image.shape[:2]}, the first is {size}; all must have one size"
            )
    return np.stack([np.repeat(i, 3, axis=2) if i.shape[2] < channels else i for i in good])


def _only(columns: list[str], what: str, name: str, table: pa.Table) -> str:
    if len(columns) != 1:
        found = f"found {', '.join(columns)}" if columns else "found none"
        raise UserError(f"{name}: needs exactly one {what} column, {found} among {', '.join(table.column_names)}")
    return columns[0]


def _class_names(table: pa.Table, column: str) -> tuple[str, ...] | None:
    described = (table.schema.metadata or {}).get(b"huggingface")
    if described is None:
        return None
    feature = json.loads(described).get("info", {}).get("features", {}).get(column, {})
    return tuple(feature["names"]) if feature.get("names") else None


def _write_cache(path: Path, images: ImageSet, note: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"images": images.images.contiguous(), "labels": images.labels}
    metadata = {"classes": json.dumps(images.classes), "checksum": images.checksum(), "note": note}
    _atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def _read_cache(path: Path, name: str) -> ImageSet:
    with safe_open(path, framework="pt") as stored:
        metadata = stored.metadata()
        images = ImageSet(
            stored.get_tensor("images"), stored.get_tensor("labels"), tuple(json.loads(metadata["classes"])), name
        )
    if images.checksum() != metadata["checksum"]:
        raise SafetensorError(f"{path} does not match its checksum")
    if note := metadata.get("note"):
        print(f"{name}: {note}", file=sys.stderr)
    return images


def _atomically(path: Path, write: Callable[[str], None]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
