"""Where images come from: names that the command line and recipes use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from headstart.data.decode import decode_table, read_parquet
from headstart.data.images import ImageSet
from headstart.errors import UserError, unknown

Split = Literal["train", "test"]
OnBadImage = Literal["error", "skip"]

SOURCES = {
    "digits": "1,797 grey 8x8 digits that ship with scikit-learn, for the demo",
    "cifar10": "CIFAR-10, from $HEADSTART_DATA/cifar10 or the hub (uoft-cs/cifar10)",
    "parquet:PATH": "a folder of train*.parquet and test*.parquet or val*.parquet with an image and a label column",
}
HUB = {"cifar10": "uoft-cs/cifar10"}
SPLIT_FILES: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}  # the first that is there


def load(name: str, split: Split, on_bad_image: OnBadImage = "error") -> ImageSet:
    """One split of a data set by name; decoded parquet is cached under the user's cache folder.

    Raises:
        UserError: no such name, path or column, or an image that cannot be read (unless they are to be skipped).
    """
    if name == "digits":
        return _digits(split)
    if name.startswith("parquet:"):
        return _parquet(Path(name.removeprefix("parquet:")), split, on_bad_image)
    if name in HUB:
        local = Path(os.environ.get("HEADSTART_DATA", "")) / name
        if "HEADSTART_DATA" in os.environ and local.is_dir():
            return _parquet(local, split, on_bad_image)
        return _hub(HUB[name], split, on_bad_image)
    raise unknown("data set", name, SOURCES)


def _digits(split: Split) -> ImageSet:
    """1,297 training and 500 test images, split by a fixed permutation; 17 grey levels become 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.as_tensor(digits.images / 16 * 255).round().to(torch.uint8).unsqueeze(-1)
    labels = torch.as_tensor(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows = order[500:] if split == "train" else order[:500]
    return ImageSet(images[rows], labels[rows], tuple("0123456789"), f"digits ({split})")


def _parquet(folder: Path, split: Split, on_bad_image: OnBadImage) -> ImageSet:
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist; give parquet:PATH of a folder with train*.parquet")
    found = (sorted(folder.glob(f"{prefix}*.parquet")) for prefix in SPLIT_FILES[split])
    files = next((files for files in found if files), [])
    if not files:
        wanted = " or ".join(f"{prefix}*.parquet" for prefix in SPLIT_FILES[split])
        raise UserError(f"{folder} has no {wanted}; it holds {[f.name for f in sorted(folder.iterdir())][:5]}")
    return read_parquet(files, f"{folder.name} ({split})", on_bad_image)


def _hub(hub_id: str, split: Split, on_bad_image: OnBadImage) -> ImageSet:
    import datasets

    try:
        table = datasets.load_dataset(hub_id, split=split).data.table
    except (OSError, ConnectionError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{hub_id} is neither cached nor reachable ({reason}); "
            f"set HEADSTART_DATA to a folder that holds it as parquet, or give parquet:PATH"
        ) from error
    return decode_table(table, f"{hub_id} ({split})", on_bad_image)
