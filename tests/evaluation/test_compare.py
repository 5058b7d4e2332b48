"""The paired comparison: what it counts, when it says better, and what it refuses to compare."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from headstart.commands.main import main
from headstart.errors import UserError
from headstart.evaluation.compare import Comparison, compare, compare_records

Record = dict[str, Any]


def record(robust: str, **changes: Any) -> Record:
    """An evaluation in which the images marked "+" withstand everything."""
    broken_by = [None if mark == "+" else "apgd-ce" for mark in robust]
    share = robust.count("+") / len(robust)
    measured = {"suite": "quick", "n": len(robust), "epsilon": 0.25, "norm": "linf", "images": "3f"}
    return {**measured, "robust": share, "broken_by": broken_by, **changes}


def compared(only_a: int, only_b: int, both: int = 100, neither: int = 100) -> Comparison:
    a = "+" * only_a + "-" * only_b + "+" * both + "-" * neither
    b = "-" * only_a + "+" * only_b + "+" * both + "-" * neither
    return compare_records(record(a), record(b))


def test_images_are_counted_in_pairs() -> None:
    result = compare_records(record("++--+-"), record("+-+-+-"), ("ours", "theirs"))
    assert (result.both, result.only_a, result.only_b, result.neither) == (2, 1, 1, 2)
    assert (result.robust_a, result.robust_b, result.difference) == (0.5, 0.5, 0.0)
    assert (result.a, result.b, result.suite, result.n) == ("ours", "theirs", "quick", 6)


@pytest.mark.parametrize(("only_a", "only_b"), [(30, 10), (12, 1), (5, 5), (3, 2)])
def test_the_p_value_is_mcnemar_s_exact_one(only_a: int, only_b: int) -> None:
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(max(only_a, only_b), discordant + 1)) / 2**discordant
    assert compared(only_a, only_b).p_value == pytest.approx(min(1.0, 2 * tail))


def test_the_interval_is_about_the_normal_one_where_there_are_many_images() -> None:
    result = compared(200, 100, both=400, neither=300)
    n, difference = 1000, 0.1
    half = 1.96 * math.sqrt((300 / n - difference**2) / n)
    assert result.interval == pytest.approx((difference - half, difference + half), abs=0.003)
    assert result.interval == compared(200, 100, both=400, neither=300).interval, "the bootstrap is seeded"


@pytest.mark.parametrize(
    ("only_a", "only_b", "better"),
    [(40, 10, "a"), (10, 40, "b"), (20, 15, None), (0, 0, None), (7, 0, "a")],
)
def test_better_is_said_only_where_it_is_shown(only_a: int, only_b: int, better: str | None) -> None:
    result = compared(only_a, only_b)
    assert result.better == better
    low, high = result.interval
    assert (low > 0 or high < 0) == (better is not None)
    assert (
        result.verdict
        == {
            "a": "A is more robust than B",
            "b": "B is more robust than A",
            None: f"{result.n} images do not show which of the two is more robust",
        }[better]
    )


def test_an_interval_without_zero_is_not_enough_where_hardly_any_image_tells_them_apart() -> None:
    result = compared(5, 0)
    assert result.interval[0] > 0
    assert result.p_value > 0.05
    assert result.better is None


def test_one_image_shows_nothing() -> None:
    assert compare_records(record("+"), record("-")).better is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"suite": "standard"}, r"A and B were measured on different suites \(quick and standard\); give suite and n"),
        ({"n": 5}, r"different numbers of images \(4 and 5\)"),
        ({"epsilon": 0.2}, r"different values of epsilon \(0.25 and 0.2\)"),
        ({"norm": "l2"}, r"different norms \(linf and l2\)"),
        ({"images": "77"}, "different images; give suite and n"),
    ],
)
def test_what_was_measured_differently_is_refused(change: Record, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        compare_records(record("++--"), record("+-+-", **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["broken_by", "images"])
def test_a_record_without_the_results_of_each_image_is_refused(key: str) -> None:
    incomplete = record("++--")
    del incomplete[key]
    with pytest.raises(UserError, match=f"B has no '{key}': .*; evaluate again"):
        compare_records(record("++--"), incomplete)


# Sources -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two evaluations, one as a file and one in a run folder."""
    (tmp_path / "run").mkdir()
    first, second = tmp_path / "first.json", tmp_path / "run" / "evaluation.json"
    first.write_text(json.dumps(record("+" * 60 + "-" * 40)))
    second.write_text(json.dumps(record("+" * 30 + "-" * 70)))
    return first, second.parent


def test_the_command_prints_the_comparison_and_writes_it(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = files
    assert main(["compare", str(first), str(second), "--out", str(tmp_path / "out.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "suite quick, 100 images, epsilon 0.25, norm linf"
    assert re.search(r"difference  \+30.00 points, 95 % interval \+2\d", "\n".join(lines))
    assert lines[-1] == f"{first} is more robust than {second}"
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored == json.loads(json.dumps(compare(first, second).to_json()))
    assert (stored["only_a"], stored["only_b"], stored["better"]) == (30, 0, "a")


def test_what_has_no_record_is_measured_as_the_other_was(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, Record]] = []

    class Measured:
        def to_json(self) -> Record:
            return record("+" * 100)

    def evaluate(source: Any, **settings: Any) -> Measured:
        asked.append((source, settings))
        return Measured()

    monkeypatch.setattr("headstart.evaluation.evaluate.evaluate", evaluate)
    monkeypatch.setattr("headstart.evaluation.evaluate.conditions", lambda source, **settings: record("+" * 100))
    first, second = files
    assert compare(first, "weights.pt").better == "b"
    assert compare("a:b", "weights.pt", n=100).suite == "quick"
    assert compare(second, first, n=100).better == "b", "both records are as asked"
    monkeypatch.setattr(
        "headstart.evaluation.evaluate.conditions", lambda source, **settings: record("+" * 100, suite="pgd")
    )
    compare(second, "weights.pt", suite="pgd", n=100)
    shared = {"data": None, "device": "auto", "seed": 0, "progress": True}
    assert asked == [
        ("weights.pt", {**shared, "suite": "quick", "n": 100, "epsilon": 0.25, "norm": "linf"}),
        ("a:b", {**shared, "suite": "quick", "n": 100, "epsilon": None}),
        ("weights.pt", {**shared, "suite": "quick", "n": 100, "epsilon": None}),
        (
            second,
            {**shared, "suite": "pgd", "n": 100, "epsilon": None, "partial": second / "compare.partial.safetensors"},
        ),
        ("weights.pt", {**shared, "suite": "pgd", "n": 100, "epsilon": None}),
    ]


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        ("{broken", [], "cannot be read as the JSON of an evaluation"),
        ("[1, 2]", [], r"bad.json is no evaluation; make one with headstart evaluate ... --out bad.json"),
        (json.dumps(record("+")), ["--suite", "standard"], "bad.json is of suite quick, not standard; name the run"),
        (json.dumps(record("+")), ["--n", "7"], "bad.json is of n 1, not 7"),
        (json.dumps(record("+")), ["--epsilon", "8/255"], "bad.json is of epsilon 0.25, not 0.03"),
        (None, [], "cannot be read as the JSON of an evaluation"),
    ],
)
def test_files_that_do_not_serve_are_refused_in_one_line(
    content: str | None, flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert main(["compare", str(path), str(path), *flags]) == 2
    printed = capsys.readouterr()
    assert re.search(said, printed.err)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_seed_reaches_the_bootstrap(tmp_path: Path) -> None:
    a, b = record("+" * 700 + "-" * 297), record("+" * 400 + "-" * 397 + "+" * 200)
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, content in zip(paths, (a, b), strict=True):
        path.write_text(json.dumps(content))
    drawn = {seed: compare_records(a, b, seed=seed).interval for seed in range(8)}
    seed = next(seed for seed in drawn if drawn[seed] != drawn[0])
    assert compare(*paths, seed=seed).interval == drawn[seed]
    assert main(["compare", *map(str, paths), "--seed", str(seed), "--out", str(tmp_path / "out.json")]) == 0
    assert tuple(json.loads((tmp_path / "out.json").read_text())["interval"]) == drawn[seed]
