"""Where the network looks: Grad-CAM by Captum, at images and at their worst perturbations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headstart.errors import extra


@dataclass(frozen=True)
class Attention:
    """Grad-CAM of B images for the class that the network predicts.

    Attributes:
        layer: name of the layer whose channels are weighted.
        maps: (B, H, W), 0 where nothing speaks for the class, 1 at the image's strongest place.
        predictions: the classes, (B,).
    """

    layer: str
    maps: Tensor
    predictions: Tensor


def looked_at(model: nn.Module, x: Tensor) -> str | None:
    """The last layer whose output is a map of several places, by name; None where only the first convolution has one.

    Networks of tokens have no such layer: their only convolution cuts the image into patches.
    """
    wide: list[str] = []  # in the order in which they finish
    convolutions: set[str] = set()

    def note(name: str, layer: nn.Module, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1:
            wide.append(name)
            convolutions.update([name] if isinstance(layer, nn.Conv2d) else [])

    layers = [(name, layer) for name, layer in model.named_modules() if name]
    hooks = [layer.register_forward_hook(lambda own, _, out, n=name: note(n, own, out)) for name, layer in layers]
    try:
        with torch.no_grad():
            model(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return wide[-1] if len(convolutions) > 1 else None


def grad_cam(model: nn.Module, x: Tensor, layer: str) -> Attention:
    """Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391) for the predicted class, at the size of the image.

    Args:
        model: maps fp32 images (B, C, H, W) in [0, 1] to logits (B, K); in evaluation mode.
        x: images, fp32 (B, C, H, W) in [0, 1].
        layer: see ``looked_at``.

    Raises:
        MissingPackage: Captum is not installed.
    """
    with extra("report"):
        from captum.attr import LayerAttribution, LayerGradCam
    with torch.no_grad():
        predictions = model(x).argmax(1)
    cam = LayerGradCam(model, model.get_submodule(layer))
    with torch.enable_grad():
        found = cam.attribute(x, target=predictions, relu_attributions=True)
    maps = LayerAttribution.interpolate(found.detach().float(), tuple(x.shape[-2:]), "bilinear")[:, 0]
    strongest = maps.flatten(1).amax(1).clamp_min(torch.finfo(maps.dtype).tiny)
    return Attention(layer, (maps / strongest[:, None, None]).cpu(), predictions.cpu())
