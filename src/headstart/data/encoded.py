"""Splits whose images are still encoded: labels in memory, one image read at a time, from files, tables or Python."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from operator import index
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from PIL import Image
from torch import Tensor

from headstart.data.columns import find_columns
from headstart.data.images import check_labels, numbered
from headstart.errors import DataError

Encoded: TypeAlias = "bytes | str | Image.Image | np.ndarray | Tensor | None"
"""One image before decoding: the bytes or the path of a file, a picture, or an array of pixels. None: no image."""

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
SHUFFLE_BUFFER = 1024  # rows of a parquet set that are shuffled among each other, and that a worker holds encoded


class EncodedSet:
    """One split, row by row.

    Attributes:
        labels: (N,) int64, in [0, K).
        classes: names of the K classes.
        name: what to call the set in records and messages.
        groups: (N,) int64, the same number for neighbours that are read together; None where any row is read alone.
    """

    groups: Tensor | None = None

    def __init__(self, labels: Tensor, classes: tuple[str, ...], name: str) -> None:
        check_labels(labels, classes, name)
        self.labels, self.classes, self.name = labels, classes, name

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> Encoded:
        """The image of a row, not yet decoded."""
        raise NotImplementedError

    def place(self, row: int) -> str:
        """What to call a row in messages."""
        return f"in row {row}"

    def fingerprint(self) -> str | None:
        """Changes with the content; None where that cannot be told, so that nothing decoded may be kept."""
        return None


# -- folders ----------------------------------------------------------------------------------------------------------


class FolderSet(EncodedSet):
    """Image files.

    Args:
        folder: where the paths start.
        paths: of the images, below the folder.
        labels: class of each path.
    """

    def __init__(
        self, folder: Path, paths: Sequence[str], labels: Sequence[int], classes: tuple[str, ...], name: str
    ) -> None:
        super().__init__(torch.tensor(labels, dtype=torch.int64), classes, name)
        self.folder = folder
        self.paths = np.array([os.fsencode(path) for path in paths])  # one block, which forked workers do not copy

    def read(self, row: int) -> str:
        return str(self.folder / self.place(row))

    def place(self, row: int) -> str:
        return os.fsdecode(self.paths[row])

    def fingerprint(self) -> str:
        paths = [os.fsdecode(path) for path in self.paths]
        return _state(self.folder, paths, *self.classes, *map(str, self.labels.tolist()))


def images_below(folder: Path) -> list[str]:
    """Paths of all image files below a folder, sorted; hidden ones are passed over."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".")]
        names = (f for f in files if not f.startswith(".") and os.path.splitext(f)[1].lower() in IMAGE_SUFFIXES)
        found += [os.path.relpath(os.path.join(place, f), folder) for f in names]
    return sorted(found)


# -- tables -----------------------------------------------------------------------------------------------------------


class ParquetSet(EncodedSet):
    """The rows of parquet files. Images are read by row group, of which the last few are kept."""

    def __init__(self, files: Sequence[Path], name: str, image_column: str | None, label_column: str | None) -> None:
        columns: list[str] = []
        labels: list[pa.Array] = []
        sizes: list[int] = []
        self._parts: list[tuple[Path, int]] = []
        for file in files:
            try:
                schema, about = pq.read_schema(file), pq.read_metadata(file)
                columns = columns or [*find_columns(schema, name, image_column, label_column)]
                if missing := [column for column in columns if column not in schema.names]:
                    raise DataError(f"{name}: {file} has no column {missing[0]}, but {files[0]} has")
                labels += pq.read_table(file, columns=columns[1:]).column(0).chunks
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{name}: cannot read {file} as parquet ({str(error).splitlines()[0]})") from error
            self._parts += [(file, group) for group in range(about.num_row_groups)]
            sizes += [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        self.image_column, label_column = columns
        super().__init__(*labels_and_classes(schema, pa.chunked_array(labels), label_column, name), name)
        rows = torch.tensor(sizes)
        self._sizes, self._starts = sizes, (rows.cumsum(0) - rows).tolist()
        self.groups = torch.arange(len(rows)).repeat_interleave(rows)
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._files, self._columns = files, (self.image_column, label_column)

    def read(self, row: int) -> Encoded:
        assert self.groups is not None
        group = int(self.groups[row])
        if group not in self._kept:
            # The buffer may begin and end inside a group; what lies further back has been shuffled and used.
            while sum(map(len, self._kept.values())) > SHUFFLE_BUFFER + self._sizes[group]:
                self._kept.popitem(last=False)
            self._kept[group] = self._read_group(group)
        return cell(self._kept[group], row - self._starts[group])

    def _read_group(self, group: int) -> pa.ChunkedArray:
        file, number = self._parts[group]
        try:
            table = pq.ParquetFile(file).read_row_group(number, columns=[self.image_column], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.name}: cannot read row group {number} of {file} ({reason})") from error
        return table[self.image_column]

    def fingerprint(self) -> str:
        return _content(self._files, *self._columns)


class ArrowSet(EncodedSet):
    """A split of a ``datasets.DatasetDict``, mapped from its cache on disk."""

    def __init__(self, dataset: Any, name: str, image_column: str | None, label_column: str | None) -> None:
        schema = dataset.data.schema
        self.image_column, label_column = find_columns(schema, name, image_column, label_column)
        self._dataset = dataset  # which workers get by its path; a plain table would be copied to them
        super().__init__(*labels_and_classes(schema, dataset.data.column(label_column), label_column, name), name)
        self._columns = (self.image_column, label_column)

    def read(self, row: int) -> Encoded:
        return cell(self._dataset.data.column(self.image_column), row)

    def fingerprint(self) -> str | None:
        files = [file["filename"] for file in self._dataset.cache_files]
        return _state(Path(), files, *self._columns) if files else None


def labels_and_classes(
    schema: pa.Schema, column: pa.ChunkedArray, name: str, owner: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels (N,) and the class names of the hub's schema; numbers where it has none."""
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(f"{owner}: row {row} has no {name}")
    labels = torch.from_numpy(column.to_numpy().astype(np.int64))
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = described.get("info", {}).get("features", {}).get(name, {}).get("names")
    return labels, tuple(names) if names else numbered(labels)


def cell(column: pa.ChunkedArray, row: int) -> Encoded:
    """What an image column holds: bytes, or a struct of bytes and path."""
    value = column[row].as_py()
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path") or None
    return value  # type: ignore[no-any-return]


def _state(folder: Path, paths: Iterable[str], *settings: str) -> str:
    """A hash over names, sizes and times of change: for many or large files, whose bytes take long to read."""
    digest = xxhash.xxh3_128("\0".join(settings).encode(errors="surrogateescape"))
    for path in paths:
        file = (folder / path).stat()
        digest.update(f"{path}\0{file.st_size}\0{file.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _content(files: Iterable[Path], *settings: str) -> str:
    """A hash over the bytes of files, so that a copy elsewhere is known again."""
    digest = xxhash.xxh3_128("\0".join(settings).encode())
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


# -- Python -----------------------------------------------------------------------------------------------------------


class ItemSet(EncodedSet):
    """A map-style ``torch.utils.data.Dataset`` of (image, label).

    Images are pictures of PIL, uint8 arrays (H, W, C) or tensors (C, H, W), uint8 or float in [0, 1], and the same
    at every visit: random transforms belong to the loader. Labels come from ``targets`` or ``labels`` if the set has
    them, else from a pass over it; class names from ``classes``.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(f"{name}: {type(dataset).__name__} has no length or no items; give a map-style Dataset")
        if len(dataset) == 0:
            raise DataError(f"{name}: the split is empty; it needs at least one image")
        self._dataset = dataset
        given = getattr(dataset, "targets", getattr(dataset, "labels", None))
        labels = [self._item(row)[1] for row in range(len(dataset))] if given is None else given
        try:
            numbers = torch.tensor([index(k) for k in (labels.tolist() if isinstance(labels, Tensor) else labels)])
        except TypeError as error:
            raise DataError(f"{name}: labels must be whole numbers ({error})") from error
        names = tuple(str(c) for c in getattr(dataset, "classes", ()))
        super().__init__(numbers, names or numbered(numbers), name)
        if len(self.labels) != len(dataset):
            raise DataError(f"{name}: {len(dataset)} images but {len(self.labels)} labels")

    def read(self, row: int) -> Encoded:
        return self._item(row)[0]  # type: ignore[no-any-return]

    def _item(self, row: int) -> tuple[Any, Any]:
        item = self._dataset[row]
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise DataError(f"item {row} of {type(self._dataset).__name__} is no (image, label)")
        return item[0], item[1]
