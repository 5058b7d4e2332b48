"""Recipes x seeds: records, the table made of them, and going on after an interruption."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from headstart.campaigns.bench import bench
from headstart.errors import UserError
from headstart.methods.registry import build_method, methods
from headstart.recipes.recipe import Recipe
from headstart.report.groups import PASSES
from tests.helpers import info

SHORT = {"epochs": 1, "max_steps": 6, "device": "cpu", "model_args": {"widths": [4, 8]}}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds. Tests only read it."""
    folder = tmp_path_factory.mktemp("bench")
    bench(["digits/fgsm", "digits/standard"], [0, 1], "fgsm", folder, n=40, overrides=SHORT)
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
        f"{name}.{kind}" for name in ("ladder", "cost") for kind in ("svg", "pdf")
    }


def test_what_has_a_record_is_not_measured_again(copied: Path) -> None:
    path = copied / "records" / "digits-fgsm-0.json"
    changed = json.loads(path.read_text()) | {"clean": 0.123}
    path.write_text(json.dumps(changed))
    table = bench(["digits/fgsm"], [0], "fgsm", copied, n=40, overrides=SHORT)
    assert "| digits/fgsm | 1 | 12.3 |" in table


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
