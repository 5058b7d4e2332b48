from __future__ import annotations

from typing import Any

import pytest

from headstart.report.groups import group_runs
from headstart.report.headline import bargain, collapses, headline, standing
from headstart.report.numbers import spread
from headstart.report.ranking import Ranking, ranking


def test_a_collapse_is_told_with_its_epoch(demo: Any) -> None:
    said = headline(demo["results"], {"fgsm": {"epoch": 17}, "fgsm-sdi": None})
    assert said == (
        "Plain FGSM collapsed at epoch 17 and keeps 0.0% under AutoAttack; "
        "FGSM-SDI did not collapse in this run and keeps 11.0% under AutoAttack."
    )


def test_no_collapse_is_claimed_where_none_was_seen(demo: Any) -> None:
    said = headline(demo["results"], {"fgsm": None, "fgsm-sdi": {"epoch": 4}})
    assert said.startswith("Plain FGSM did not collapse in this run and keeps 0.0%")
    assert "FGSM-SDI collapsed at epoch 4" in said


def test_nothing_is_claimed_of_a_method_that_nobody_watched(demo: Any) -> None:
    assert headline(demo["results"][:1], {}) == "Plain FGSM keeps 0.0% under AutoAttack."


def test_the_strongest_attack_that_was_run_is_quoted(demo: Any) -> None:
    result = {**demo["results"][0], "autoattack": None}
    assert headline([result], {}) == "Plain FGSM keeps 1.1% under PGD-20."


def ranked(results: list[Any], n: int | None = None) -> Ranking | None:
    return ranking({row["method"].upper(): spread([row["autoattack"]], n) for row in results})


def test_the_cost_of_the_most_robust_method_is_told_beside_sdi(demo: Any) -> None:
    assert bargain(demo["results"], ranked(demo["results"])) == (
        "PGD-AT has the highest accuracy under AutoAttack of the 4 measured: 15.6%. "
        "It takes 3.0 times the training time of FGSM-SDI (46.2 s against 15.4 s)."
    )


def test_sdi_as_the_most_robust_is_told_beside_pgd(demo: Any) -> None:
    demo["results"][2]["autoattack"] = 0.2
    assert bargain(demo["results"], ranked(demo["results"])) == (
        "FGSM-SDI has the highest accuracy under AutoAttack of the 4 measured: 20.0%. "
        "It takes 0.3 times the training time of PGD-AT (15.4 s against 46.2 s)."
    )


def test_what_the_interval_leaves_open_is_said(demo: Any) -> None:
    said = bargain(demo["results"], ranked(demo["results"], n=100))
    assert said.startswith(
        "PGD-AT has the highest accuracy under AutoAttack of the 4 measured: 15.6%; "
        "FGSM-SDI is level within the 95% interval. It takes"
    )


def test_equals_are_not_called_the_most_robust(demo: Any) -> None:
    for row in demo["results"][:3]:
        row["autoattack"] = 0.156
    said = bargain(demo["results"], ranked(demo["results"]))
    assert said == "FGSM, FGSM-RS, FGSM-SDI and PGD-AT have the same accuracy under AutoAttack: 15.6%."


@pytest.mark.parametrize(
    ("robust", "said"),
    [
        (0.5, "sdi has the highest robust accuracy of the 2 measured: 50.0% (standard, ε = 8/255, 1000 images)"),
        (0.45, "sdi has the highest robust accuracy of the 2 measured: 45.0% (standard, ε = 8/255, 1000 images); "
         "rs is level within the 95% interval"),
        (0.44, "rs and sdi have the same robust accuracy: 44.0% (standard, ε = 8/255, 1000 images)"),
    ],
)  # fmt: skip
def test_the_standing_of_runs_names_the_best_and_all_that_may_be(run_of: Any, robust: float, said: str) -> None:
    groups = group_runs([run_of("rs"), run_of("sdi", "fgsm-sdi", robust=robust)])
    assert standing(groups, ranking({group.title: group.accuracy("robust") for group in groups})) == said


def test_a_sentence_names_few() -> None:
    ranks = ranking({name: spread([0.5 - i / 1000], 100) for i, name in enumerate("abcdefg")})
    assert ranks is not None
    assert ranks.sentence("accuracy").endswith("50.0%; b, c, d and 3 others are level within the 95% interval")


def test_a_comparison_image_by_image_outweighs_the_intervals() -> None:
    accuracies = {name: spread([value], 100) for name, value in (("a", 0.5), ("b", 0.45), ("c", 0.1), ("d", None))}
    ranks = ranking(accuracies, {"b": False, "c": True})
    assert ranks is not None
    assert (ranks.best, ranks.level, ranks.of) == (["a"], ["c"], 3)
    assert ranking({"d": None}) is None


def test_runs_nobody_watched_are_not_cleared_of_collapse(run_of: Any) -> None:
    unwatched = run_of("a")
    for row in unwatched["metrics"]:
        del row["val"]
    assert collapses([run_of("b"), unwatched]) == "No collapse was seen, but only 1 of 2 runs were watched for it."
    assert collapses([run_of("b"), run_of("c")]) == "No run collapsed."
    assert collapses([unwatched]) == "It was never validated, so nobody watched for a collapse."
