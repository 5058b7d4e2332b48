"""Reasons for distrust: each on a model built to deserve it, beside models that do not. More stand in test_suite.

What each warning means is documented; here it is also checked that the document has a section for each.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headstart
from headstart.core.threat import ThreatModel
from headstart.evaluation import warnings
from headstart.evaluation.masking import warnings_of_attacks
from headstart.evaluation.outcome import Evidence
from headstart.evaluation.result import Evaluation
from headstart.evaluation.warnings import warnings_of_overlap
from tests.attacks.attack_models import Linear, Quantised, Wrapped, linear_task
from tests.attacks.digit_models import EPSILON, digits, held_out, trained
from tests.evaluation.dishonest import (
    Deployed,
    Leaking,
    Negated,
    OtherInBfloat16,
    OverflowingOffTheGrid,
    SeededByImage,
    Shuffled,
    StraightThrough,
    Times,
    TwiceSoftmax,
    Watchful,
)
from tests.evaluation.measuring import measure

ROOT = Path(headstart.__file__).parents[2]
GUIDE = (ROOT / "docs" / "evaluation.md").read_text()


def run(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, suite: str = "pgd", **more: Any) -> Evaluation:
    return measure(model, x, y, ThreatModel(epsilon), suite, **more)


def sections_of(warnings: list[str]) -> list[str]:
    """The sections of the documentation that warnings point to; a suite's caveat points to none."""
    return [match[1] for warning in warnings if (match := re.search(r"\[docs/evaluation\.md#([\w-]+)\]$", warning))]


def test_every_warning_points_to_a_section_that_exists() -> None:
    headings = re.findall(r"^#+ (.*)$", GUIDE, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    package = ROOT / "src" / "headstart"
    named = {s for file in package.rglob("*.py") for s in re.findall(r'caution\(\s*"([\w-]+)"', file.read_text())}
    assert len(named) >= 21
    assert named <= anchors
    rows = re.findall(r"^\| \[`([\w-]+)`\]\(#([\w-]+)\) \| [^|]+ \| [^|]+ \| [^|]+ \|$", GUIDE, re.M)
    assert all(name == anchor for name, anchor in rows)
    assert sorted(name for name, _ in rows) == sorted(named), "one row of the table for each warning"


def test_a_collapsed_model_is_named_as_such() -> None:
    """Plain FGSM training on digits, which ends in catastrophic overfitting."""
    result = run(trained("fgsm", epsilon=0.25), *held_out(200), 0.25)
    assert result.attacks["fgsm"] > 2 * result.attacks["pgd-50"]
    assert sections_of(result.warnings) == ["catastrophic-overfitting"]
    assert "the signature of catastrophic overfitting" in result.warnings[-1]


def test_a_robust_model_gets_no_warning_but_its_suite_s_caveat() -> None:
    for suite, n in (("pgd", 200), ("quick", 60)):
        result = run(trained("pgd-at"), *held_out(n), EPSILON, suite)
        assert sections_of(result.warnings) == []
        assert 0.2 < result.robust < result.clean - 0.1


class Scaled(Wrapped):
    """Logits so large that float32 knows no doubt; the predictions are the same."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.model(x)


def test_scaled_logits_have_vanishing_gradients() -> None:
    honest = trained("pgd-at")
    x, y = held_out(100)
    result = run(Scaled(honest), x, y, EPSILON, "fgsm")
    assert result.attacks["fgsm"] > run(honest, x, y, EPSILON, "fgsm").attacks["fgsm"] + 0.1, "nothing was masked"
    assert set(sections_of(result.warnings)) == {"vanishing-gradients"}
    assert any("the softmax is exactly one" in warning for warning in result.warnings)


class Detached(Wrapped):
    """Preprocessing outside autograd, as with NumPy or an image library."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach())


@pytest.mark.parametrize("kind", [Quantised, Detached])
def test_preprocessing_without_a_gradient_is_noticed(kind: type[Wrapped]) -> None:
    x, y = held_out(60)
    result = run(kind(trained("standard")), x, y, EPSILON)
    assert result.robust > 0.5, "nothing was masked"
    assert "no-gradient" in sections_of(result.warnings)
    assert "the gradient is zero in every pixel of 100.0 % of the images" in "".join(result.warnings)


def test_preprocessing_without_a_gradient_does_not_stop_autoattack() -> None:
    model, x, y = linear_task(12, classes=4)
    result = run(Detached(model), x, y, 16 / 255, "standard")
    assert result.attacks["fab-t"] - result.robust > 2 / 12, "Square needs no gradient"
    assert {"no-gradient", "black-box-stronger-than-white-box"} <= set(sections_of(result.warnings))


class TrainingBatchNorm(nn.BatchNorm2d):
    """Takes its statistics from the batch whatever the mode."""

    def train(self, mode: bool = True) -> TrainingBatchNorm:
        return super().train(True)


def test_batch_norm_in_training_mode_is_noticed() -> None:
    model, x, y = linear_task(40)
    found = sections_of(run(nn.Sequential(TrainingBatchNorm(3), model), x, y, 2 / 255, "fgsm").warnings)
    assert {"parts-left-in-training-mode", "predictions-that-depend-on-the-batch"} <= set(found)


# Models that deceive -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "suite", "sections"),
    [
        (Negated, "pgd", ["wrong-gradient"]),
        (Shuffled, "pgd", ["wrong-gradient"]),
        (Leaking, "pgd", ["gradient-that-shows-little"]),
        (Watchful, "light", ["other-answers-under-autograd", "wrong-gradient"]),
        (Deployed, "light", ["other-answers-under-autograd"]),
        (TwiceSoftmax, "light", ["probabilities-instead-of-logits"]),
        (functools.partial(Times, factor=1e-6), "light", ["logits-too-small"]),
        (SeededByImage, "light", ["noise-drawn-from-the-image"]),
        (OverflowingOffTheGrid, "light", ["logits-not-finite"]),
        (StraightThrough, "light", []),
        (functools.partial(Times, factor=3.0), "light", []),
    ],
)
def test_each_way_to_deceive_is_named(kind: Callable[[nn.Module], nn.Module], suite: str, sections: list[str]) -> None:
    x, y = held_out(40)
    found = sections_of(run(kind(trained("pgd-at")).eval(), x, y, EPSILON, suite).warnings)
    if kind is Watchful:  # the wrong gradient misleads many steps more than one on some processors, not on all
        found = [section for section in found if section != "fgsm-stronger-than-pgd"]
    assert found == sections


def test_a_negated_gradient_flatters_where_it_is_believed() -> None:
    honest = trained("pgd-at")
    x, y = held_out(40)
    result = run(Negated(honest), x, y, EPSILON, "light")
    assert result.robust > run(honest, x, y, EPSILON, "light").robust + 0.3, "nothing was masked"
    assert "along the gradient the logits change by -1 times what it says" in result.warnings[-1]


def test_a_gradient_that_only_the_search_gets_wrong_is_noticed() -> None:
    linear, x, y = linear_task(40)
    model = OtherInBfloat16(linear)
    assert sections_of(run(model, x, y, 2 / 255, "light").warnings) == []
    result = run(model, x, y, 2 / 255, "light", search_precision="bf16")
    assert sections_of(result.warnings) == ["other-gradient-in-the-search"]
    assert "searching in bf16, attacks see a gradient with cosine -" in result.warnings[-1]


def test_noise_drawn_from_the_image_is_no_catastrophic_overfitting() -> None:
    x, y = held_out(60)
    result = run(SeededByImage(trained("standard")), x, y, 0.08)
    assert result.attacks["pgd-50"] < result.attacks["fgsm"] / 3, "fifty draws against one"
    assert "catastrophic-overfitting" not in sections_of(result.warnings)


def test_images_without_an_answer_are_counted() -> None:
    x, y = held_out(40)
    result = run(OverflowingOffTheGrid(trained("pgd-at")), x, y, EPSILON, "light")
    assert result.robust == 0.0
    (found,) = [warning for warning in result.warnings if "not finite" in warning]
    assert f"the logits of {round(40 * result.clean)} images are not finite" in found


def evidence(n: int, classes: int = 10, **broken: set[int]) -> Evidence:
    """All of ``n`` images right when clean, and under each attack all but the rows given."""
    made = Evidence(classes, torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool), torch.ones(n).bool())
    for name, rows in broken.items():
        fooled = torch.tensor([i in rows for i in range(n)])
        made.broken[name.replace("_", "-")], made.left[name.replace("_", "-")] = fooled, ~fooled
        made.robust &= ~fooled
    return made


def test_another_model_s_examples_that_do_better_than_gradients_are_noticed() -> None:
    found = warnings_of_attacks(evidence(50, fgsm={0, 1}, apgd_t={0, 1, 2}, transfer={1, 2, 3, 4, 5}))
    assert sections_of(found) == ["black-box-stronger-than-white-box"]
    assert "without this model's gradient, breaks 3 images that the white-box attacks did not" in found[0]
    assert warnings_of_attacks(evidence(50, fgsm={0, 1}, apgd_t={0, 1, 2}, transfer={0, 1, 2, 3})) == []


def test_what_square_alone_breaks_is_counted_once() -> None:
    found = warnings_of_attacks(evidence(50, fgsm={0}, apgd_t={0, 1}, square={2, 3, 4}))
    assert sections_of(found) == ["black-box-stronger-than-white-box"]
    assert "Square, which uses no gradient, breaks 3 images" in found[0]


def test_a_targeted_loss_that_does_far_better_is_noticed() -> None:
    found = warnings_of_attacks(evidence(30, fgsm=set(), apgd_ce={0, 1}, apgd_t=set(range(19))))
    assert sections_of(found) == ["cross-entropy-misled"]
    assert "apgd-ce leaves 93.3 % and apgd-t 36.7 %" in found[0]
    smoothed = evidence(30, fgsm=set(range(8)), pgd_20=set(range(12)), cw_20=set(range(16)))
    assert warnings_of_attacks(smoothed) == [], "smoothed labels flatter the cross-entropy, and mislead nobody"


def test_test_images_that_are_copies_of_training_images_are_found() -> None:
    draw = torch.Generator().manual_seed(0)
    training = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=draw)
    test = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=draw)
    assert warnings_of_overlap(test, training) == []
    test[[2, 7, 11, 19]] = training[[40, 3, 3, 0]]
    almost = training[5].clone()
    almost[0, 0, 0] ^= 1
    test[4] = almost
    (found,) = warnings_of_overlap(test, training.to(memory_format=torch.channels_last))
    assert "4 of 20 test images are exact copies of training images (rows 2, 7, 11, ...)" in found
    assert sections_of([found]) == ["test-images-seen-in-training"]
    assert warnings_of_overlap(test[:3], training)[0].count("(rows 2)") == 1
    assert warnings_of_overlap(test[:, :, :4], training) == [], "images of other shapes are no copies"


def test_the_digits_of_both_parts_are_different_pictures() -> None:
    x = (digits()[0] * 16).byte()
    assert warnings_of_overlap(x[1024:], x[:1024]) == []


def test_a_subset_says_how_uncertain_it_is() -> None:
    model, x, y = linear_task(40)
    (found,) = [w for w in run(model, x, y, 1 / 255, "fgsm", total=400).warnings if "40 of 400" in w]
    assert "by up to 15.5 points (95 % interval)" in found
    assert sections_of([found]) == ["part-of-the-test-set"]
    assert warnings.warnings_of_subset(400, 400) == []


def test_guessing_is_noticed() -> None:
    x = linear_task(40)[1]
    wrong = (Linear(10)(x).argmax(1) + 1) % 10
    assert "accuracy-of-guessing" in sections_of(run(Linear(10), x, wrong, 1 / 255, "fgsm").warnings)
