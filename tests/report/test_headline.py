from __future__ import annotations

from typing import Any

import pytest

from headstart.report.groups import group_runs
from headstart.report.headline import bargain, collapses, headline, standing


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


def test_the_cost_of_the_most_robust_method_is_told_beside_sdi(demo: Any) -> None:
    assert bargain(demo["results"]) == (
        "PGD-AT is the most robust of the 4 methods (15.6% under AutoAttack), "
        "at 3.0 times the training time of FGSM-SDI (46.2 s against 15.4 s)."
    )


def test_sdi_as_the_most_robust_is_told_beside_pgd(demo: Any) -> None:
    demo["results"][2]["autoattack"] = 0.2
    assert bargain(demo["results"]) == (
        "FGSM-SDI is the most robust of the 4 methods (20.0% under AutoAttack), "
        "at 0.3 times the training time of PGD-AT (15.4 s against 46.2 s)."
    )


def test_equals_are_not_called_the_most_robust(demo: Any) -> None:
    for row in demo["results"][:3]:
        row["autoattack"] = 0.156
    assert bargain(demo["results"]).startswith("FGSM, FGSM-RS, FGSM-SDI and PGD-AT are equally robust (15.6%")


@pytest.mark.parametrize(("robust", "said"), [(0.5, "sdi has the highest"), (0.44, "rs and sdi have the highest")])
def test_the_standing_of_runs_names_the_best_or_all_equals(run_of: Any, robust: float, said: str) -> None:
    assert standing(group_runs([run_of("rs"), run_of("sdi", "fgsm-sdi", robust=robust)])).startswith(said)


def test_runs_nobody_watched_are_not_cleared_of_collapse(run_of: Any) -> None:
    unwatched = run_of("a")
    for row in unwatched["metrics"]:
        del row["val"]
    assert collapses([run_of("b"), unwatched]) == "No collapse was seen, but only 1 of 2 runs were watched for it."
    assert collapses([run_of("b"), run_of("c")]) == "No run collapsed."
