"""Layers of a network that others ask for."""

from __future__ import annotations

from torch import nn

from headstart.errors import extra

OUTPUT_NAMES = ("linear", "fc", "head", "classifier")


def output_layer(network: nn.Module) -> tuple[str, nn.Linear] | None:
    """The layer that makes the logits, and its name: what the network names so, else its last linear layer."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    if callable(ask := getattr(network, "get_classifier", None)):  # timm's networks
        asked = ask()
        layers = {name: layer for name, layer in layers.items() if layer is asked} or layers
    named = [name for name in OUTPUT_NAMES if name in layers] or list(layers)[-1:]
    return (named[0], layers[named[0]]) if named else None


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that follow one another, by name and in their order.

    They are the members with weights of the outermost ``Sequential`` and ``ModuleList``. One that wraps all of the
    network in a single member is looked into.
    """
    return _blocks(network, "", _size(network))


def _blocks(layer: nn.Module, prefix: str, whole: int) -> dict[str, nn.Module]:
    weighted = {prefix + name: child for name, child in layer.named_children() if _size(child)}
    if isinstance(layer, nn.Sequential | nn.ModuleList) and not any(_size(c) == whole for c in weighted.values()):
        return weighted
    found: dict[str, nn.Module] = {}
    for name, child in weighted.items():
        found |= _blocks(child, f"{name}.", whole)
    return found


def _size(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


def depths(network: nn.Module) -> dict[str, int]:
    """The depth of every parameter by name: 0 at the images, highest at the logits.

    timm says it of its own networks (``group_matcher``). In others every block is a step, what stands before the first
    has depth 0, what stands after one belongs to it, and the output layer is the last step.
    """
    names = [name for name, _ in network.named_parameters()]
    if callable(matcher := getattr(network, "group_matcher", None)):
        with extra("vision"):
            from timm.models import group_parameters
        known: dict[str, int] = group_parameters(network, matcher(coarse=False), reverse=True)
        return {name: known.get(name, max(known.values())) for name in names}
    steps = [f"{name}." for name in blocks(network)]
    output = output_layer(network)
    raw, depth = {}, 0
    for name in names:
        depth = next((k for k, step in enumerate(steps, start=1) if name.startswith(step)), depth)
        raw[name] = len(steps) + 1 if output and name.startswith(f"{output[0]}.") else depth
    rank = {depth: k for k, depth in enumerate(sorted(set(raw.values())))}
    return {name: rank[depth] for name, depth in raw.items()}
