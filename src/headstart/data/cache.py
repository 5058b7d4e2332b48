"""Decoded sets, kept on disk for the next start."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headstart.data.images import ImageSet
from headstart.errors import DataError

LOG = logging.getLogger(__name__)

VERSION = "2"


def remembered(key: str | None, name: str, make: Callable[[], tuple[ImageSet, str]]) -> ImageSet:
    """What ``make`` returns, or returned when it was last called with this key; its note is logged either way.

    Without a key nothing is kept. What was kept is used only if its checksum is right, and else made anew.
    """
    path = folder() / f"{VERSION}-{key}.safetensors" if key else None
    found = _read(path, name) if path else None
    images, note = found or make()
    if path and not found:
        _write(path, images, note)
    if note:
        LOG.warning("%s: %s", name, note)
    return images


def folder() -> Path:
    """$HEADSTART_CACHE, or headstart/ in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "headstart"
    return Path(os.environ.get("HEADSTART_CACHE", default))


def _read(path: Path, name: str) -> tuple[ImageSet, str] | None:
    """The set and its note; None if it is not there, or cut short or damaged since."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as stored:
            about = stored.metadata()
            classes = tuple(json.loads(about["classes"]))
            images = ImageSet(stored.get_tensor("images"), stored.get_tensor("labels"), classes, name)
        return (images, about["note"]) if images.checksum() == about["checksum"] else None
    except (SafetensorError, DataError, ValueError, LookupError, TypeError, OSError):
        return None


def _write(path: Path, images: ImageSet, note: str) -> None:
    """Whole or not at all; a folder that cannot be written to costs time at the next start, nothing else."""
    tensors = {"images": images.images.contiguous(), "labels": images.labels}
    about = {"classes": json.dumps(images.classes), "checksum": images.checksum(), "note": note}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            save_file(tensors, temporary, about)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        LOG.warning("%s: the decoded images are not kept for the next time (%s)", images.name, error)
