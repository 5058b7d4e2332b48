"""Recipes x seeds: records, the table made of them, and going on after an interruption."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from headstart.campaigns.bench import bench, plan, stem_of
from headstart.campaigns.by_time import curve
from headstart.campaigns.variation import variants
from headstart.errors import UserError
from headstart.evaluation.evaluate import evaluate
from headstart.evaluation.measurement import Measurement
from headstart.methods.registry import build_method, methods
from headstart.recipes.reader import load_recipe
from headstart.recipes.recipe import Recipe
from headstart.report.groups import PASSES
from headstart.runs.folder import RunFolder
from tests.helpers import info

SHORT = {"epochs": 1, "max_steps": 6, "device": "cpu", "model_args": {"widths": [4, 8]}}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds. Tests only read it."""
    folder = tmp_path_factory.mktemp("bench")
    bench(["digits/fgsm", "digits/standard"], [0, 1], "fgsm", folder, n=40, last=True, overrides=SHORT)
    return folder


@pytest.fixture
def copied(out: Path, tmp_path: Path) -> Path:
    """A bench with the same records, for a test to change."""
    shutil.copytree(out / "records", tmp_path / "records")
    return tmp_path


def test_a_record_for_every_recipe_and_seed(out: Path) -> None:
    records = {path.stem: json.loads(path.read_text()) for path in (out / "records").iterdir()}
    assert set(records) == {f"digits-{method}-{seed}" for method in ("fgsm", "standard") for seed in (0, 1)}
    for record in records.values():
        assert record["robust"] <= record["clean"]
        assert record["evaluation"]["n"] == 40
        assert record["seconds"] > 0
        assert "broken_by" not in record["evaluation"]


def test_the_table_holds_every_figure(out: Path) -> None:
    rows = json.loads((out / "table.json").read_text())["rows"]
    means = [sum(row["robust"]) for row in rows]
    assert means == sorted(means, reverse=True)
    (row,) = (row for row in rows if row["recipe"] == "digits/fgsm")
    first = json.loads((out / "records" / "digits-fgsm-1.json").read_text())
    assert row["seeds"] == [0, 1]
    assert row["robust"][1] == first["robust"]
    assert [row["passes_per_update"][kind] for kind in PASSES] == [2, 1, 1]
    assert "seed" not in row["recipe_fields"]
    assert (out / "table.md").read_text().count("| digits/") == 2
    assert "2 recipes, measured side by side" in (out / "table.html").read_text()
    assert {path.name for path in (out / "table-figures").iterdir()} == {
        f"{name}.{kind}" for name in ("ladder", "cost", "curves-0", "curves-1") for kind in ("svg", "pdf")
    }


def test_last_weights_are_evaluated_beside_the_best(out: Path) -> None:
    record = json.loads((out / "records" / "digits-fgsm-0.json").read_text())
    run = out / "runs" / "digits-fgsm-0"
    for found, weights in ((record, "model.safetensors"), (record["last"], "model-last.safetensors")):
        evaluation = evaluate(run / weights, suite="fgsm", n=40)
        assert found["robust"] == evaluation.robust
        assert found["withstands"] == "".join("01"[attack is None] for attack in evaluation.broken_by)
    assert "last epoch: fgsm" in (out / "table.md").read_text()


def test_records_without_last_weights_are_refused_where_they_are_wanted(copied: Path) -> None:
    path = copied / "records" / "digits-fgsm-0.json"
    record = json.loads(path.read_text())
    del record["last"]
    path.write_text(json.dumps(record))
    bench(["digits/fgsm"], [0], "fgsm", copied, n=40, overrides=SHORT)
    with pytest.raises(UserError, match="is not of the last weights"):
        bench(["digits/fgsm"], [0], "fgsm", copied, n=40, last=True, overrides=SHORT)


def test_a_table_has_no_last_weights_where_some_records_have_none(copied: Path) -> None:
    path = copied / "records" / "digits-fgsm-1.json"
    record = json.loads(path.read_text())
    del record["last"], record["curve"]
    path.write_text(json.dumps(record))
    assert "last epoch" not in bench([], [0], "fgsm", copied)
    rows = {row["recipe"]: row for row in json.loads((copied / "table.json").read_text())["rows"]}
    assert not rows["digits/fgsm"].keys() & {"last", "curves"}
    assert len(rows["digits/standard"]["last"]["robust"]) == len(rows["digits/standard"]["curves"]) == 2


def test_every_row_says_how_far_it_is_behind_the_first(out: Path) -> None:
    first, second = json.loads((out / "table.json").read_text())["rows"]
    assert "behind_the_first" not in first
    behind = second["behind_the_first"]
    assert behind["low"] <= behind["difference"] <= behind["high"]
    assert behind["difference"] == pytest.approx(sum(first["robust"]) / 2 - sum(second["robust"]) / 2)


def test_without_recipes_the_tables_are_made_anew_from_the_records(copied: Path, tmp_path: Path) -> None:
    table = bench([], [0], "fgsm", copied)
    assert table == bench(["digits/fgsm", "digits/standard"], [0, 1], "fgsm", copied, n=40, overrides=SHORT)
    assert (copied / "table.md").read_text() == table
    with pytest.raises(UserError, match="no records in"):
        bench([], [0], "fgsm", tmp_path / "none")


def test_a_bench_of_several_devices_says_that_their_seconds_do_not_compare(copied: Path) -> None:
    assert "device" not in bench([], [0], "fgsm", copied)
    path = copied / "records" / "digits-fgsm-0.json"
    record = json.loads(path.read_text())
    here = record["evaluation"]["environment"]["device"]
    record["evaluation"]["environment"]["device"] = "Elsewhere"
    path.write_text(json.dumps(record))
    table = bench([], [0], "fgsm", copied)
    assert "Seconds compare only within one device." in table
    assert "Elsewhere: digits/fgsm" in table
    assert f"{here}: digits/" in table
    assert "Seconds compare only within one device." in (copied / "table.html").read_text()


def test_what_has_a_record_is_not_measured_again(copied: Path) -> None:
    path = copied / "records" / "digits-fgsm-0.json"
    changed = json.loads(path.read_text()) | {"clean": 0.123}
    path.write_text(json.dumps(changed))
    table = bench(["digits/fgsm"], [0], "fgsm", copied, n=40, overrides=SHORT)
    assert "| digits/fgsm | 1 | 12.3 |" in table


def test_attacks_that_were_finished_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in the second attack of the suite, after those that make the table's other columns."""
    attack, ran = Measurement._attack, []

    def counted(self: Measurement, name: str, *rest: Any) -> None:
        ran.append(name)
        if len(ran) == 4:
            raise KeyboardInterrupt
        attack(self, name, *rest)

    monkeypatch.setattr(Measurement, "_attack", counted)
    with pytest.raises(KeyboardInterrupt):
        bench(["digits/fgsm"], [0], "light", tmp_path, n=20, overrides=SHORT)
    bench(["digits/fgsm"], [0], "light", tmp_path, n=20, overrides=SHORT)
    assert ran == ["fgsm", "pgd-20"] * 2 + ["fgsm", "pgd-20", "pgd-20"]
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overrides": {**SHORT, "epsilon": "8/255"}}, r"digits-fgsm-1.json was made with epsilon 0.25, not 8/255"),
        ({"suite": "light"}, "was made with suite 'fgsm', not 'light'; take another folder"),
        ({"n": 30}, "was made with n 40, not 30"),
    ],
)
def test_records_of_other_settings_are_refused(changes: dict[str, Any], said: str, out: Path) -> None:
    settings: dict[str, Any] = {"suite": "fgsm", "n": 40, "overrides": SHORT, **changes}
    with pytest.raises(UserError, match=said):
        bench(["digits/fgsm"], [1], out=out, **settings)


def test_a_broken_record_is_named(copied: Path) -> None:
    path = copied / "records" / "digits-standard-1.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"digits-standard-1.json is not a record of a bench; delete it"):
        bench(["digits/standard"], [1], "fgsm", copied, n=40, overrides=SHORT)


def test_a_data_set_stands_for_every_method_once(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="headstart")
    like = json.loads((out / "records" / "digits-fgsm-0.json").read_text())

    def instead(name: str, recipe: Recipe, *_: Any) -> dict[str, Any]:
        return like | {"recipe_name": name, "recipe": asdict(recipe)}

    monkeypatch.setattr("headstart.campaigns.bench.measure", instead)
    bench(["digits"], [0], "fgsm", tmp_path, n=40)
    made = {path.stem for path in (tmp_path / "records").iterdir()}
    assert made == {f"digits-{name}-0" for name in methods()} - {"digits-fgsm-ckpt-0", "digits-awp-0"}
    assert caplog.messages[-1].startswith(f"{len(made)}/{len(made)}: digits/")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"suite": "standrad"}, "unknown suite 'standrad'; did you mean 'standard'"), ({"seeds": []}, "nothing to train")],
)
def test_bad_settings_are_refused_before_training(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"recipes": ["digits/fgsm"], "seeds": [0], "suite": "fgsm", **changes}
    with pytest.raises(UserError, match=said):
        bench(out=tmp_path, overrides=SHORT, **settings)
    assert not list(tmp_path.iterdir())


def test_a_data_set_without_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set with recipes 'digit'; did you mean 'digits'"):
        bench(["digit"], [0], "fgsm", tmp_path)


@pytest.mark.parametrize("name", [name for name, entry in methods().items() if entry.same_as])
def test_second_names_are_the_same_method(name: str) -> None:
    entry = methods()[name]
    assert entry.same_as is not None
    first, second = (build_method(n, info()) for n in (entry.same_as, name))
    assert str(first) == str(second)
    settings = [{k: v for k, v in vars(m).items() if isinstance(v, int | float)} for m in (first, second)]
    assert settings[0] == settings[1]


# -- robustness by cost ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One method, two seeds, three epochs, with an average. Tests only read it."""
    folder = tmp_path_factory.mktemp("timed")
    short = {**SHORT, "epochs": 3, "max_steps": None, "samples": 300, "val_size": 44, "average": 0.5}
    bench(["digits/fgsm-rs"], [0, 1], "fgsm", folder, n=40, overrides=short, time=True)
    return folder


def test_a_curve_has_a_point_for_every_epoch(timed: Path) -> None:
    """The last is what the run ended with; costs grow, and are of updates alone."""
    for seed in (0, 1):
        stem = f"digits-fgsm-rs-{seed}"
        points = json.loads((timed / "time" / f"{stem}.json").read_text())["points"]
        assert [point["epoch"] for point in points] == [1, 2, 3]
        assert points[0]["cpu_seconds"] < points[1]["cpu_seconds"] < points[2]["cpu_seconds"]
        cost = json.loads((timed / "records" / f"{stem}.json").read_text())["cost"]
        assert points[2]["cpu_seconds"] == pytest.approx(cost["training_processor_seconds"])
        assert points[2]["seconds"] == pytest.approx(cost["seconds"])
        assert cost["training_processor_seconds"] < cost["processor_seconds"]
        last = evaluate(timed / "runs" / stem / "model-last.safetensors", suite="fgsm", n=40, seed=seed, progress=False)
        assert (points[2]["clean"], points[2]["robust"]) == (last.clean, last.robust)


def test_curves_are_drawn_and_tabled(timed: Path) -> None:
    page = (timed / "table.html").read_text()
    assert "Robustness by cost" in page
    assert "processor seconds of training" in page
    row = next(line for line in (timed / "time.md").read_text().splitlines() if line.startswith("| digits/fgsm-rs |"))
    ends = [json.loads(path.read_text())["points"][2] for path in sorted((timed / "time").iterdir())]
    mean = sum(point["robust"] for point in ends) / 2
    assert row.split("|")[-2].strip() == f"{100 * mean:.1f}"


def test_a_curve_goes_on_where_it_was_cut_off(timed: Path, tmp_path: Path) -> None:
    shutil.copytree(timed, tmp_path / "bench")
    path = tmp_path / "bench" / "time" / "digits-fgsm-rs-0.json"
    record = json.loads(path.read_text())
    kept = {**record["points"][0], "robust": 0.123}
    path.write_text(json.dumps({**record, "points": [kept]}))
    run = RunFolder(tmp_path / "bench" / "runs" / "digits-fgsm-rs-0")
    made = curve(load_recipe(str(run.config)), run, path, "fgsm", 40)
    assert made == [kept, *record["points"][1:]]
    with pytest.raises(UserError, match="was made with other settings"):
        curve(load_recipe(str(run.config)), run, path, "fgsm", 30)


def test_a_run_without_checkpoints_of_its_epochs_has_no_curve(copied: Path) -> None:
    with pytest.raises(UserError, match="kept no checkpoints of its epochs; train it again with keep 1"):
        bench(["digits/fgsm"], [0], "fgsm", copied, n=40, overrides=SHORT, time=True)


# -- one setting varied ----------------------------------------------------------------------------------------------


def test_an_ablation_has_the_recipe_as_it_is_and_each_variant() -> None:
    overrides = {"epochs": 3, "method_args": {"generator_lr": 0.01}}
    planned = plan(["digits/fgsm-sdi"], [0, 1], overrides, "method_args.generator_every=[1, 20]")
    assert [(stem_of(name, recipe.seed), recipe.method_args.get("generator_every")) for name, recipe in planned] == [
        ("digits-fgsm-sdi-0", None),
        ("digits-fgsm-sdi-1", None),
        ("digits-fgsm-sdi-generator_every=1-0", 1),
        ("digits-fgsm-sdi-generator_every=1-1", 1),
        ("digits-fgsm-sdi-generator_every=20-0", 20),
        ("digits-fgsm-sdi-generator_every=20-1", 20),
    ]
    for _, recipe in planned:
        assert recipe.epochs == 3
        assert recipe.method_args["generator_lr"] == 0.01
        assert recipe.method_args["generator_width"] == 16, "the book's own"


def test_records_of_variants_go_by_their_names(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like = json.loads((out / "records" / "digits-fgsm-0.json").read_text())

    def instead(name: str, recipe: Recipe, *_: Any) -> dict[str, Any]:
        return like | {"recipe_name": name, "recipe": asdict(recipe)}

    monkeypatch.setattr("headstart.campaigns.bench.measure", instead)
    table = bench(["digits/fgsm"], [0], "fgsm", tmp_path, n=40, vary="lr=[0.01, 0.02]")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| digits/fgsm",
        "| digits/fgsm lr=0.01",
        "| digits/fgsm lr=0.02",
    ]


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("lr", "vary is 'lr'; it must be FIELD="),
        ("lr=0.1", "it must be FIELD="),
        ("lr=[]", "it must be FIELD="),
        ("=[1]", "it must be FIELD="),
        ("lr=[1, 1]", "names a value twice"),
        ("lr=[", "it must be FIELD="),
    ],
)
def test_what_does_not_say_field_and_values_is_refused(vary: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        variants(vary)


@pytest.mark.parametrize(
    ("vary", "said"),
    [("lrr=[1]", "unknown recipe field 'lrr'"), ("epochs=[0]", "epochs"), ("method_args=[1]", "method_args is 1")],
)
def test_bad_variants_are_refused_before_training(vary: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        bench(["digits/fgsm"], [0], "fgsm", tmp_path, vary=vary)
    assert not list(tmp_path.iterdir())
