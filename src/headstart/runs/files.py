"""Files that are written whole or not at all, so that whatever happens the last good one stays."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from headstart.errors import StorageError


def save_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write plain weights as safetensors, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    atomically(path, lambda temporary: save_file(plain, temporary, metadata))


def write_text(path: Path, text: str) -> None:
    """Write a small text file, atomically."""
    atomically(path, lambda temporary: Path(temporary).write_text(text))


def save_bytes(path: Path, content: bytes) -> None:
    """Write any file atomically."""
    atomically(path, lambda temporary: Path(temporary).write_bytes(content))


def check_writable(path: Path) -> None:
    """See that a file can be written here, before hours go into its content.

    Raises:
        StorageError: it cannot.
    """
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; give the name of a file")
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {path} ({error})") from error


def check_folder(path: Path) -> None:
    """See that a folder is there or can be made, and can be written to; makes nothing.

    Raises:
        StorageError: a file is in the way, or the place is read-only.
    """
    try:
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    except OSError as error:  # such as a name that is too long
        raise StorageError(f"cannot write to {path} ({error.strerror}); choose another out") from error
    if not there.is_dir():
        raise StorageError(f"cannot write to {path}: {there} is a file; choose another out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write to {path}: {there} is read-only; choose another out")


def atomically(path: Path, write: Callable[[str], object], previous: Path | None = None) -> None:
    """Let ``write`` make a file under another name, and move it to ``path`` once it is on the disk.

    Args:
        previous: where the file that was at ``path`` goes; it is gone by default.

    Raises:
        StorageError: it cannot be written; what was at ``path`` is still there.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(str(temporary))
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a failed write as RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"cannot write {path} ({error}); what was saved before is untouched") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
