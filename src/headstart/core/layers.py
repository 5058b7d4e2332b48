"""Layers of a network that others ask for."""

from __future__ import annotations

from torch import nn

OUTPUT_NAMES = ("linear", "fc", "head", "classifier")


def output_layer(network: nn.Module) -> tuple[str, nn.Linear] | None:
    """The layer that makes the logits, and its name: what the network names so, else its last linear layer."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    if callable(ask := getattr(network, "get_classifier", None)):  # timm's networks
        asked = ask()
        layers = {name: layer for name, layer in layers.items() if layer is asked} or layers
    named = [name for name in OUTPUT_NAMES if name in layers] or list(layers)[-1:]
    return (named[0], layers[named[0]]) if named else None
