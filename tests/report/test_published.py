"""Published numbers: which belong beside a run, and that every difference in protocol is named."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest

from headstart.commands.main import main
from headstart.methods.registry import methods
from headstart.recipes.reader import load_recipe
from headstart.report import run_page
from headstart.report.protocol import TEST_IMAGES, beside
from headstart.report.published import FILES, METHODS, dataset_of, every_row, published_for

FOLDER = resources.files("headstart.report") / "published"
NOT_OURS = {
    "1-step PGD AT, 100 epochs, 10-epoch eps warm-up",
    "AAER",  # with which of its two starts is not said
    "AT-Field",
    "Addepalli2021Towards_RN18",
    "Addepalli2022Efficient_RN18",
    "B-BP",
    "B-MEP",
    "B-RS",
    "DDG",
    "ETA",
    "FGSM + CURE",
    "FGSM-BP w/o regularizer",
    "FGSM-CKPT + QUB-decreasing",
    "FGSM-CKPT + QUB-static",
    "FGSM-EP w/o regularizer",
    "FGSM-GA + QUB-static",
    "FGSM-MEP w/o regularizer",
    "FGSM-PGI(MEP) + QUB-decreasing",
    "FGSM-PGK",
    "FGSM-RS with regularizer",
    "N-FGSM + QUB-static",
    "PGD-AT + QUB-static (10 step)",
    "WMEP (FGSM-PGK)",
    "WMEP-ETA",
    "WMEP-ETA (FGSM-PGK init + ETA loss + EMA)",
    "lp-FGSM",
}

RunOf = Callable[..., Any]


@pytest.fixture
def trained(run_of: RunOf) -> RunOf:
    """A run of a recipe, evaluated by AutoAttack on the whole test set."""

    def make(recipe: str, evaluated: dict[str, Any] | None = None, **changes: Any) -> Any:
        config = dataclasses.asdict(load_recipe(recipe, **changes))
        run = run_of("mine", config["method"], config=config)
        run["evaluation"] |= {"n": 10_000, "epsilon": config["epsilon"]} | (evaluated or {})
        return run

    return make


def differences(run: Any) -> dict[tuple[str, str, str], list[str]]:
    """By source, published method and checkpoint; of several networks the first."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row, different in beside(run).rows:
        found.setdefault((row.source, row.method, row.checkpoint), different)
    return found


def table(page: Any) -> list[list[str]]:
    """The first table of published numbers: ours, then each of theirs with the differences as its last cell."""
    start = page.rows.index(page.row("source")) + 1
    rows = page.rows[start:]
    ours, below = rows[0], [i for i, row in enumerate(rows) if len(row) == 1]
    return [ours, *([*rows[i - 1], *rows[i]] for i in below)]


BENCH = "FastAT Benchmark, 2026"
POSTER = "FGSM-PGI, ECCV 2022, poster"


# -- the files ---------------------------------------------------------------------------------------------------------


def test_every_published_method_is_one_of_ours_or_known_not_to_be() -> None:
    names = {row.method for row in every_row()}
    assert names == set(METHODS) | NOT_OURS
    assert not set(METHODS) & NOT_OURS
    assert set(METHODS.values()) <= {name for name, entry in methods().items() if entry.same_as is None}


def test_every_data_set_is_one_of_ours_or_known_not_to_be() -> None:
    names = {row["dataset"] for row in _rows(*FILES)}
    assert {name: dataset_of(name) for name in names} == {
        "CIFAR-10": "cifar10",
        "CIFAR-100": "cifar100",
        "Tiny-ImageNet": "tiny-imagenet",
        "ImageNet": "imagenet",
        "ImageNet-100": None,
        "PathMNIST": None,
    }


def test_every_protocol_has_a_recipe_and_every_source_its_place() -> None:
    for row in every_row():
        if row.protocol and row.method in METHODS:
            assert load_recipe(f"{row.dataset}-{row.protocol}/{METHODS[row.method]}").epsilon == row.epsilon
    readme = (FOLDER / "README.md").read_text()
    rows = _rows(*FILES)
    assert all(row["where_found"] for row in rows)
    for source in {row["source"].split(", issue")[0] for row in rows}:
        assert f"| {source}" in readme


def test_the_files_hold_figures_and_no_notes() -> None:
    bench, others = (_rows(name) for name in FILES)
    assert (len(bench), len(others)) == (62, 230)
    assert "note" not in bench[0] | others[0]
    assert {row["epsilon"] for row in others} == {"", "2/255", "4/255", "8/255", "12/255", "16/255"}
    (liet,) = [row for row in every_row() if (row.method, row.dataset) == ("liet", "cifar10")]
    assert liet.figures == pytest.approx({"clean": 0.8068, "pgd-50": 0.5597, "autoattack": 0.4999})
    assert liet.deviation == pytest.approx(0.0015)
    for row in every_row():
        assert all(figure is None or 0 <= figure <= 1 for figure in row.figures.values())


def _rows(*names: str) -> list[dict[str, str]]:
    return [row for name in names for row in csv.DictReader((FOLDER / name).read_text().splitlines())]


# -- which rows belong to a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("cifar10", "cifar10"),
        ("parquet:/data/CIFAR-10/", "cifar10"),
        ("folder:photos/tiny-imagenet-200", "tiny-imagenet"),
        ("parquet:C:\\data\\cifar100_jpeg", "cifar100"),
        ("hub:ILSVRC/imagenet-1k", "imagenet"),
        ("parquet:/data/tiny-imagenet-50", None),
        ("hub:someone/imagenet-100", None),
        ("cifar10.1", None),
        ("cifar-10-c", None),
        ("digits", None),
    ],
)
def test_a_data_set_is_known_by_its_whole_name(name: str, dataset: str | None) -> None:
    assert dataset_of(name) == dataset


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny-imagenet"])
def test_a_run_of_the_benchmarks_recipe_differs_from_its_row_in_nothing(trained: RunOf, dataset: str) -> None:
    assert differences(trained(f"{dataset}-bench/liet"))[BENCH, "liet", "best"] == []
    assert differences(trained(f"{dataset}-bench/fgsm-mep", seed=3, device="cpu"))[BENCH, "fgsm_pgi", "best"] == []
    assert differences(trained(f"{dataset}-bench/fgsm-ckpt"))[BENCH, "ssat", "best"] == []  # ssat by its other name


def test_pgd_at_is_set_beside_its_last_epoch_and_beside_its_average(trained: RunOf) -> None:
    plain = differences(trained("cifar10-bench/pgd-at"))
    assert plain[BENCH, "pgd_at", "last"] == ["their last epoch, our best"]
    assert plain[BENCH, "pgd_at_wa", "best"] == ["average 0, not 0.9995"]
    assert differences(trained("cifar10-bench/pgd-at", average=0.9995))[BENCH, "pgd_at_wa", "best"] == []


def test_what_the_benchmarks_code_does_otherwise_is_named(trained: RunOf) -> None:
    (only,) = differences(trained("cifar10-bench/free"))[BENCH, "free_at", "best"]
    assert only.startswith("their rate never comes down")


def test_a_short_run_differs_in_each_of_its_settings(trained: RunOf) -> None:
    found = differences(trained("cifar10/fgsm-mep"))[BENCH, "fgsm_pgi", "best"]
    assert {
        "epochs 30, not 100",
        "lr 0.2, not 0.1",
        "schedule_by update, not epoch",
        "average 0.999, not 0.9995",
        "validation random, not last",
        "precision bf16, not fp32",
        "label_smoothing the method's default, not 0.4",
        "reset_every the method's default, not 40",
    } <= set(found)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"model": "wide-resnet34-10"}, "network wide-resnet34-10, not resnet18"),
        ({"batch_size": 256}, "batch_size 256, not 128"),
        ({"val_size": 5000}, "val_size 5000, not 1000"),
        ({"weights": "runs/other"}, "weights runs/other, not none"),
        ({"samples": 10_000}, "samples 10000, not none"),
        ({"method_args": {"label_smoothing": 0.1}}, "label_smoothing 0.1, not 0.4"),
        ({"data": "parquet:/data/cifar10-jpeg"}, "images of parquet:/data/cifar10-jpeg"),
    ],
)
def test_one_other_setting_is_the_one_difference(trained: RunOf, changes: dict[str, Any], difference: str) -> None:
    assert differences(trained("cifar10-bench/fgsm-mep", **changes))[BENCH, "fgsm_pgi", "best"] == [difference]


@pytest.mark.parametrize(
    ("evaluated", "difference"),
    [
        ({"n": 1000}, "1,000 test images, not 10,000"),
        ({"suite": "quick"}, "suite quick, not AutoAttack"),
        ({"request": {"data": "parquet:/jpeg/cifar10"}}, "images of parquet:/jpeg/cifar10"),
        ({"precision": "bf16 search, float32 verdicts"}, "attacks search in bf16"),
    ],
)
def test_another_evaluation_is_a_difference(trained: RunOf, evaluated: dict[str, Any], difference: str) -> None:
    run = trained("cifar10-bench/fgsm-mep", evaluated)
    assert differences(run)[BENCH, "fgsm_pgi", "best"] == [difference]


def test_the_authors_protocol_differs_in_what_validates_alone(trained: RunOf) -> None:
    found = differences(trained("cifar10-paper/fgsm-mep"))
    assert found[POSTER, "FGSM-MEP", "best"] == ["their epoch chosen on the test set", "val_size 1000, not 0"]
    assert found[POSTER, "FGSM-MEP", "last"] == ["their last epoch, our best", "val_size 1000, not 0"]
    assert "epochs 110, not 100" in found[BENCH, "fgsm_pgi", "best"]


def test_rows_without_a_known_protocol_say_so(trained: RunOf) -> None:
    for run in (trained("cifar10-bench/fgsm-rs"), trained("imagenet/fgsm-rs"), trained("cifar100/trades")):
        for row, different in beside(run).rows:
            assert ("training protocol not known here" in different) == (not row.protocol)
            assert bool(row.doubt) == any(text.startswith("figures ") for text in different)
            assert bool(row.network) != ("network not stated" in different)


def test_of_another_budget_norm_method_or_data_set_nothing_is_shown(trained: RunOf) -> None:
    shown = trained("cifar10-bench/pgd-at")
    assert beside(shown).rows
    assert beside(trained("cifar10-bench/pgd-at", epsilon="4/255")).rows == []
    assert beside(trained("cifar10-bench/pgd-at", {"epsilon": 4 / 255})).rows == []
    assert beside(trained("cifar10-bench/pgd-at", norm="l2")).rows == []
    assert beside(trained("cifar10-bench/pgd-at", {"request": {"data": "cifar100"}})).rows == []
    assert beside(trained("cifar10-bench/sdi-liet")).rows == []
    assert beside(trained("digits/pgd-at", epsilon="8/255")).rows == []
    stronger = {row.epsilon for row, _ in beside(trained("cifar10-bench/pgd-at", epsilon="16/255")).rows}
    assert stronger == {16 / 255}


def test_rows_are_found_by_data_set_method_and_epsilon() -> None:
    for dataset in TEST_IMAGES:
        for method in set(METHODS.values()):
            for row in published_for(dataset, method, 8 / 255):
                assert (row.dataset, METHODS[row.method], row.epsilon) == (dataset, method, 8 / 255)
    assert published_for(None, "n-fgsm", 8 / 255) == [], "those of ImageNet-100 and PathMNIST"


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_sets_our_figures_with_their_intervals_above_the_published(trained: RunOf, parsed: Any) -> None:
    run = trained("cifar10-bench/fgsm-mep", {"clean": 0.8, "robust": 0.5, "attacks": {"pgd-50": 0.55}})
    seen = parsed(run_page([run], published=True))
    assert "Beside published numbers" in seen.text
    ours, bench, poster = table(seen)[:3]
    assert ours[:4] == ["mine", "fgsm-mep", "resnet18", "best"]
    assert ours[4:] == ["80.0", "55.0", "50.0"]
    ends = seen.intervals[seen.rows.index(ours)][4:]
    assert [" ".join(cell.split()) for cell in ends] == ["79.2 to 80.8", "54.0 to 56.0", "49.0 to 51.0"]
    assert bench == [BENCH, "fgsm_pgi", "ResNet18", "best", "79.7", "55.8", "49.9 ± 0.1", "same protocol"]
    assert poster[:7] == [POSTER, "FGSM-MEP", "ResNet18", "best", "81.7", "54.2", "49.0"]
    assert "epochs 100, not 110; " in poster[7]


def test_a_figure_that_is_missing_is_a_dash(trained: RunOf, parsed: Any) -> None:
    run = trained("cifar10-bench/fgsm-rs", {"suite": "quick"})
    rows = table(parsed(run_page([run], published=True)))
    assert rows[0][5:7] == ["—", "—"]
    (readme,) = [row for row in rows if row[0] == "Fast is better than free, README"]
    assert readme[6] == "—"


def test_a_run_that_was_not_evaluated_is_shown(trained: RunOf, parsed: Any) -> None:
    run = trained("cifar10-bench/fgsm-mep") | {"evaluation": None}
    assert differences(run)[BENCH, "fgsm_pgi", "best"] == ["not evaluated"]
    rows = table(parsed(run_page([run], published=True)))
    assert rows[0][4:7] == ["—", "—", "—"]


def test_where_nothing_matches_one_line_says_so(trained: RunOf, parsed: Any) -> None:
    seen = parsed(run_page([trained("digits/fgsm-sdi")], published=True))
    assert seen.text.count("No published number is known for mine") == 1
    assert not any(row[0] == "source" for row in seen.rows)


def test_published_numbers_are_shown_on_request_alone(trained: RunOf, tmp_path: Any) -> None:
    assert "Beside published numbers" not in run_page([trained("cifar10-bench/fgsm-mep")])
    run = trained("cifar10-bench/fgsm-mep")
    folder, page = tmp_path / "run", tmp_path / "page.html"
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps(run["config"]))
    (folder / "evaluation.json").write_text(json.dumps(run["evaluation"]))
    assert main(["report", str(folder), "--published", "--out", str(page)]) == 0
    assert BENCH in page.read_text()
    assert main(["report", str(folder), "--out", str(page)]) == 0
    assert BENCH not in page.read_text()
