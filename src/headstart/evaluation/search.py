"""The network as attacks query it: the same function of the image, at a smaller price."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.attacks.scores import input_gradient, margin
from headstart.core.threat import ThreatModel
from headstart.evaluation.probe import differs


class Bfloat16(nn.Module):
    """Convolutions and matrix products of the model in bfloat16, logits in float32.

    Of a traced model a copy is made whose layers keep the rounded weights, which every pass would round anew.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = _rounded(model) if isinstance(model, GraphModule) else model

    def forward(self, x: Tensor) -> Tensor:
        # Autocast keeps its copy of a leaf that needs a gradient, such as the image, until the outermost autocast ends:
        # in an evaluation that is after the attack, and by then the copies of all its steps would take gigabytes.
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            logits: Tensor = self.model(x)
        return logits.float()


def _rounded(model: GraphModule) -> GraphModule:
    copy = deepcopy(model)
    read = {str(node.target).rpartition(".")[0] for node in copy.graph.nodes if node.op == "get_attr"}
    for name, layer in copy.named_modules():
        if type(layer) in (nn.Conv2d, nn.Linear) and name not in read:  # autocast rounds what these compute with
            layer.to(torch.bfloat16)
    return copy


def folded(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> nn.Module | None:
    """A channels-last copy in which batch-norm is part of the convolution before it.

    A convolution and the batch-norm that follows are one affine map once the statistics are fixed. Only a copy with
    the logits and the input gradients of the model, at the images and beside them, is returned: what cannot be traced
    is answered with None, and so is a model that is random or that alters its gradient.

    Args:
        model: in evaluation mode.
        x: images (B, C, H, W) and ``y`` labels (B,) to compare at.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return None
    try:
        copy: Any = fuse(model)
    except Exception:  # tracing runs the model's own code on stand-ins for tensors, which can fail in every way
        return None
    copy = copy.to(memory_format=torch.channels_last)
    beside = x + threat.box(x, threat.project(threat.uniform(x)))
    for point in (x, beside):
        (grad, logits), (grad2, logits2) = (input_gradient(m, point, y, margin) for m in (model, copy))
        # Rounding alone switches a ReLU here and there, and with it some pixels of the gradient.
        if differs(logits, logits2) or not bool((grad - grad2).norm() <= 0.01 * grad.norm()):
            return None
    result: nn.Module = copy
    return result
