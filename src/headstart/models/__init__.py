"""Networks by name, and weights for them."""

from headstart.models.external import without_fetching
from headstart.models.networks import (
    EXTERNAL,
    MODELS,
    ModelEntry,
    build_model,
    check_network,
    normalization_of,
    normalized,
)

__all__ = [
    "EXTERNAL",
    "MODELS",
    "ModelEntry",
    "build_model",
    "check_network",
    "normalization_of",
    "normalized",
    "without_fetching",
]
