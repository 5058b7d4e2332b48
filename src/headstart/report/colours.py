"""The colours shared by tables, plots and pictures."""

from __future__ import annotations

# Okabe and Ito's palette, told apart under every common colour blindness; in the order in which names appear.
_PALETTE = ("#D55E00", "#CC79A7", "#0072B2", "#009E73", "#56B4E9", "#E69F00", "#8C8C8C", "#B8A800")

# Ends of the diverging scale of perturbations. Zero is transparent, so it is neutral on light and dark pages.
NEGATIVE = (44, 110, 190)
POSITIVE = (200, 70, 30)


def colour(index: int) -> str:
    """Colour of the method or group that appears at this place of the page; they repeat after eight."""
    return _PALETTE[index % len(_PALETTE)]
