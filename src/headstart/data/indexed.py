"""Samples with the row that they have in their set, for methods that remember samples."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset


class Indexed(Dataset[tuple[Any, Any, int]]):
    """A map-style data set of (image, label) as one of (image, label, index), for any ``DataLoader``, shuffled or not.

    The index is what ``load_method``'s methods that remember samples ask for::

        loader = DataLoader(headstart.Indexed(dataset), batch_size=128, shuffle=True)
        for x, y, index in loader:
            loss = method(model, x, y, index)
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style sets have a length

    def __getitem__(self, index: int) -> tuple[Any, Any, int]:
        image, label = self.dataset[index]
        return image, label, index
