"""Signs that a robust accuracy cannot be trusted, each a sentence with its reason and where the remedy stands.

Here those that images and model show before any attack; ``masking`` has those that the attacks show.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

from torch import Tensor

from headstart.evaluation.gradients import Gradients
from headstart.evaluation.probe import Probe

SMALL = 1e-3
"""Range of an image's logits below which float32, whose steps at a cross-entropy of log K are 2e-7, blurs the loss."""
ASTRAY, HIDDEN, TURNED = 4, 20, 0.5
"""How many times larger or smaller than it says a slope along the gradient is wrong, how many times farther than the
gradient says the logits move where it shows little of them, and the cosine below which a gradient is another one."""


def caution(section: str, text: str) -> str:
    """A warning, with the section of the documentation that explains it and says what to do."""
    return f"{text} [docs/evaluation.md#{section}]"


# Of the images -----------------------------------------------------------------------------------------------------


def warnings_of_subset(n: int, total: int | None) -> list[str]:
    """Fewer images than the test set has."""
    if total is None or n >= total:
        return []
    return [
        caution(
            "part-of-the-test-set",
            f"evaluated on {n} of {total} test images: the accuracies of the full set may differ by up to "
            f"{100 * 1.96 * math.sqrt(0.25 / n):.1f} points (95 % interval)",
        )
    ]


def warnings_of_overlap(test: Tensor, training: Tensor) -> list[str]:
    """Test images that are copies, pixel by pixel, of training images; both uint8, of shapes (N, ...) and (M, ...)."""
    if test.shape[1:] != training.shape[1:]:
        return []
    known = {_digest(image) for image in training}
    copies = [i for i, image in enumerate(test) if _digest(image) in known]
    if not copies:
        return []
    first = ", ".join(map(str, copies[:3])) + (", ..." if len(copies) > 3 else "")
    return [
        caution(
            "test-images-seen-in-training",
            f"{len(copies)} of {len(test)} test images are exact copies of training images (rows {first}): on them "
            "the accuracies measure memory",
        )
    ]


def _digest(image: Tensor) -> bytes:
    return hashlib.blake2b(image.cpu().numpy().tobytes(), digest_size=16).digest()


# Of the forward pass -----------------------------------------------------------------------------------------------


def warnings_of_forward(found: Probe) -> list[str]:
    """What one batch shows of the model before any attack."""
    return [warning for check in FORWARD_CHECKS for warning in check(found)]


def in_training(found: Probe) -> Iterator[str]:
    """Parts that do not follow ``eval()``."""
    if found.in_training:
        yield caution(
            "parts-left-in-training-mode",
            f"parts of the model stay in training mode after eval(): {', '.join(found.in_training)}; batch "
            "statistics or dropout there make predictions depend on chance and on the batch",
        )


def chance_or_company(found: Probe) -> Iterator[str]:
    """Logits that depend on chance, or on the other images."""
    if found.random:
        yield caution(
            "random-forward-pass",
            "two forward passes of the same images differ: against a randomised model these attacks fail for "
            "want of a steady gradient, and the robust accuracy is an overestimate",
        )
    elif not found.alone:
        yield caution(
            "predictions-that-depend-on-the-batch",
            "the prediction for an image depends on the other images of its batch (batch statistics at test "
            "time?): accuracies change with the batch size",
        )


def watched(found: Probe) -> Iterator[str]:
    """Logits that depend on whether autograd records."""
    if found.watched:
        yield caution(
            "other-answers-under-autograd",
            "the logits are others while autograd records: attacks are made on one function and judged on another; "
            "remove what depends on requires_grad or on the grad mode",
        )


def probabilities(found: Probe) -> Iterator[str]:
    """A softmax at the end, or a multiple of one."""
    logits, sums = found.logits, found.logits.sum(1)
    same = len(sums) > 1 or abs(sums.mean().item() - 1) < 1e-5  # of one image every sum is the same
    if same and bool((logits >= 0).all()) and bool(((sums - sums.mean()).abs() <= 1e-5 * sums.mean()).all()):
        yield caution(
            "probabilities-instead-of-logits",
            "the model returns probabilities instead of logits, or a multiple of them: their gradients vanish where "
            "it is confident, and attacks fail for that reason alone",
        )


def small_logits(found: Probe) -> Iterator[str]:
    """Logits that hardly differ."""
    spread = (found.logits.amax(1) - found.logits.amin(1)).median().item()
    if 0 < spread < SMALL:
        yield caution(
            "logits-too-small",
            f"the logits of an image lie within {spread:.1g} of each other: in float32 the cross-entropy hardly "
            "changes, and attacks on it (FGSM, PGD, APGD-CE) steer by rounding; multiply the logits by a constant",
        )


def no_gradient(found: Probe) -> Iterator[str]:
    """Images in which no pixel has a gradient, of any score or of the cross-entropy alone."""
    if found.blind > 0.01:
        yield caution(
            "no-gradient",
            f"the gradient is zero in every pixel of {percent(found.blind)} of the images (does the model round or "
            "quantise its input?): white-box attacks see nothing there, and only a black-box attack (Square, in "
            "suite 'standard') tests them",
        )
    elif found.saturated > 0.01:
        yield caution(
            "vanishing-gradients",
            f"the cross-entropy's gradient is zero in every pixel of {percent(found.saturated)} of the images, and "
            "the margin's is not: the logits are so large that the softmax is exactly one, and attacks on the "
            "cross-entropy (FGSM, PGD, APGD-CE) see nothing",
        )


FORWARD_CHECKS = (in_training, chance_or_company, watched, probabilities, small_logits, no_gradient)


# Of the gradient ---------------------------------------------------------------------------------------------------


def warnings_of_gradients(found: Gradients | None, search: str) -> list[str]:
    """What finite differences show of the gradient; none where there were none. ``search``: the attacks' precision."""
    return [] if found is None else [warning for check in GRADIENT_CHECKS for warning in check(found, search)]


def unsteady(found: Gradients | None) -> bool:
    """Whether the logits move in a way of which the gradient says little."""
    return found is not None and (found.jumps or found.across > HIDDEN)


def other_in_inference(found: Gradients, search: str) -> Iterator[str]:
    """Logits that depend on inference mode."""
    if not found.inference:
        yield caution(
            "other-answers-under-autograd",
            "the logits are others in torch.inference_mode: what is deployed is not what is attacked and judged here; "
            "remove what depends on the mode",
        )


def moves_unsaid(found: Gradients, search: str) -> Iterator[str]:
    """Logits that move where the gradient says that they do not."""
    if found.jumps:
        yield caution(
            "noise-drawn-from-the-image",
            "images that differ by next to nothing get logits as different as others do, though each gets the same "
            "twice: does the model draw noise from the image? Attacks then succeed by trying often; take the noise "
            "out, or make it random and use suite 'full'",
        )
    elif HIDDEN < found.across < math.inf:
        yield caution(
            "gradient-that-shows-little",
            f"a step of a quarter of a grey level moves the logits {found.across:.2g} times as far as the gradient "
            "says: rounding or noise hides the slope, and white-box attacks follow what is left; let the gradient "
            "through the rounding (straight-through), and believe Square alone till then",
        )


def wrong_gradient(found: Gradients, search: str) -> Iterator[str]:
    """A slope along the gradient that is not the gradient's."""
    if found.along is not None and not unsteady(found) and not 1 / ASTRAY <= found.along <= ASTRAY:
        yield caution(
            "wrong-gradient",
            f"along the gradient the logits change by {found.along:.2g} times what it says (finite differences): the "
            "backward pass is not that of the forward pass, and white-box attacks walk astray; mend it, and believe "
            "Square alone till then",
        )


def other_gradient(found: Gradients, search: str) -> Iterator[str]:
    """A search whose gradient is not the model's."""
    if found.searched < TURNED and not unsteady(found) and not any(wrong_gradient(found, search)):
        yield caution(
            "other-gradient-in-the-search",
            f"searching in {search}, attacks see a gradient with cosine {found.searched:.2f} to the model's own: what "
            "they miss counts as robust; use search_precision fp32",
        )


GRADIENT_CHECKS = (other_in_inference, moves_unsaid, wrong_gradient, other_gradient)


def percent(share: float) -> str:
    """A share as it stands in warnings."""
    return f"{100 * share:.1f} %"
