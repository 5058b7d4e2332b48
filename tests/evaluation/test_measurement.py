"""A measurement in progress: interrupted, shared between processes, and what it leaves behind for each image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headstart.core.threat import ThreatModel
from headstart.errors import UserError
from headstart.evaluation.attacker import Attacker
from headstart.evaluation.result import Evaluation
from headstart.evaluation.suites import SUITES
from tests.attacks.attack_models import Noisy, Wrapped, linear_task
from tests.evaluation.measuring import measure

EPSILON = 2 / 255
TIMES = ("seconds", "attack_seconds", "processes")


def run(n: int = 24, suite: str = "light", epsilon: float = EPSILON, norm: str = "linf", **more: Any) -> Evaluation:
    model, x, y = linear_task(n)
    y[:2] = (y[:2] + 1) % 10  # wrong when clean
    threat = ThreatModel(epsilon, norm)
    return measure(model, x, y, threat, suite, **{"batch_size": 7} | more)


def numbers(result: Evaluation) -> dict[str, Any]:
    return {name: value for name, value in result.to_json().items() if name not in TIMES}


# Interruptions -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="headstart")


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attack of each batch, as they come; a name put in ``die_in`` ends the process there."""
    batches: list[str] = []
    call = Attacker.__call__

    def noted(self: Attacker, x: Tensor, y: Tensor, seed: int) -> Any:
        if self.name in Attacker.die_in:  # type: ignore[attr-defined]
            raise Killed
        batches.append(self.name)
        return call(self, x, y, seed)

    monkeypatch.setattr(Attacker, "die_in", set(), raising=False)
    monkeypatch.setattr(Attacker, "__call__", noted)
    return batches


def die_in(monkeypatch: pytest.MonkeyPatch, name: str, **settings: Any) -> None:
    monkeypatch.setattr(Attacker, "die_in", {name})
    with pytest.raises(Killed):
        run(**settings)
    monkeypatch.setattr(Attacker, "die_in", set())


@pytest.mark.parametrize("suite", ["quick", "pgd"])
def test_an_interrupted_evaluation_ends_like_any_other(
    suite: str, attacked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(suite=suite, save_examples=tmp_path / "whole.safetensors")
    names = list(dict.fromkeys(attacked))
    part = tmp_path / "part.safetensors"
    files: dict[str, Any] = {"partial": part, "save_examples": tmp_path / "resumed.safetensors"}
    for name in names[1:]:  # each time one attack further
        die_in(monkeypatch, name, suite=suite, **files)
        assert files["partial"].exists()
    attacked.clear()
    resumed = run(suite=suite, **files)
    assert set(attacked) == {names[-1]}, "finished attacks are not run again"
    assert numbers(resumed) == numbers(whole)
    assert 0 < whole.robust < whole.clean < 1
    assert files["partial"].exists(), "until the result is stored"
    assert f"continuing after {', '.join(names[:-1])}" in caplog.text
    kept, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(kept[key], again[key]) for key in kept)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"epsilon": 3 / 255}, {"batch_size": 8}, {"n": 25}, {"suite": "pgd"}, {"norm": "l2"}]
)
def test_what_another_evaluation_left_is_passed_over(
    change: dict[str, Any], attacked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    partial = tmp_path / "part.safetensors"
    die_in(monkeypatch, "pgd-20", partial=partial)
    die_in(monkeypatch, "fgsm", partial=partial, **change)
    assert f"{partial} is of another model, data or settings; the evaluation starts anew" in caplog.text


def test_other_weights_are_another_evaluation(
    attacked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = tmp_path / "part.safetensors"
    die_in(monkeypatch, "pgd-20", partial=partial)
    model, x, y = linear_task(24)
    y[:2] = (y[:2] + 1) % 10
    with torch.no_grad():
        model.bias[3] += 1e-3
    threat = ThreatModel(EPSILON)
    measure(model, x, y, threat, "light", batch_size=7, partial=partial)
    assert "starts anew" in caplog.text


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_passed_over(
    content: bytes | None, attacked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    partial = tmp_path / "part.safetensors"
    die_in(monkeypatch, "pgd-20", partial=partial)
    partial.write_bytes(partial.read_bytes()[:-20] if content is None else content)
    result = run(partial=partial)
    assert f"{partial} cannot be read" in caplog.text
    assert numbers(result) == numbers(run())


# Several processes -------------------------------------------------------------------------------------------------


@pytest.mark.dist
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0] == ranks[1] == numbers(run(suite="pgd", save_examples=tmp_path / "1.safetensors"))
    one, two = (load_file(tmp_path / f"{processes}.safetensors") for processes in (1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    seen: list[int] = []
    call = Attacker.__call__
    Attacker.__call__ = lambda self, x, y, seed: (seen.append(len(x)), call(self, x, y, seed))[1]  # type: ignore
    result = run(suite="pgd", save_examples=Path(folder) / "2.safetensors")
    assert result.processes == 2
    assert sum(seen) == len(result.attacks) * 11, "22 images in batches of at most seven are four, dealt in turn"
    (Path(folder) / f"{rank}.json").write_text(json.dumps(numbers(result)))
    dist.destroy_process_group()


# What is left for each image ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_saved_examples_bear_out_the_record_in_plain_torch(norm: str, tmp_path: Path) -> None:
    model, x, y = linear_task(40)
    y[:2] = (y[:2] + 1) % 10
    epsilon = EPSILON if norm == "linf" else 0.05
    path = tmp_path / "examples.safetensors"
    result = measure(model, x, y, ThreatModel(epsilon, norm), "pgd", save_examples=path)

    saved = load_file(path)
    x_adv, label, index = saved["x_adv"], saved["y"], saved["index"]
    delta = (x_adv - x[index]).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (size <= epsilon * (1 + 1e-5) + 1e-7).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    logits = model(x_adv)
    assert (logits.argmax(1) == label).float().mean().item() == pytest.approx(result.robust)

    assert 0 < result.robust < result.clean == 38 / 40
    assert index.tolist() == list(range(40))
    assert torch.equal(label, y)
    assert logits.argmax(1).tolist() == result.predicted
    others = logits.scatter(1, y.unsqueeze(1), float("-inf")).amax(1)
    expected = others - logits.gather(1, y.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(torch.tensor(result.margin), expected, rtol=0, atol=1e-5)
    robust = [by is None for by in result.broken_by]
    assert robust == [margin < 0 for margin in result.margin]
    assert torch.equal(x_adv[:2], x[:2]), "what is wrong when clean is not attacked"
    assert (size[2:] > 0.5 * epsilon).all(), "of each robust image the worst example found"


def test_the_margin_is_the_worst_over_all_attacks(images: Tensor) -> None:
    model, x, y = linear_task(40)
    light, pgd = (measure(model, x, y, ThreatModel(EPSILON), s) for s in ("fgsm", "pgd"))
    assert all(more >= less for more, less in zip(pgd.margin, light.margin, strict=True))
    assert any(more > less for more, less in zip(pgd.margin, light.margin, strict=True))


def test_a_margin_that_is_no_number_is_none(images: Tensor) -> None:
    class Fragile(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            off_grid = ((x * 255).round() / 255 - x).abs().amax((1, 2, 3)) > 1e-6
            return self.model(x) * torch.where(off_grid, float("nan"), 1.0).unsqueeze(1)

    model, x, y = linear_task(6)
    result = measure(Fragile(model), x, y, ThreatModel(0.3 / 255), "fgsm")
    assert result.robust == 0
    assert result.margin == [None] * 6


# The full suite and L2 ---------------------------------------------------------------------------------------------


def full(model: nn.Module, n: int = 8, epsilon: float = EPSILON, norm: str = "linf", **more: Any) -> Evaluation:
    _, x, y = linear_task(n)
    return measure(model, x, y, ThreatModel(epsilon, norm), "full", **more)


@pytest.mark.slow
def test_full_runs_what_applies_and_says_what_does_not() -> None:
    model = linear_task(8)[0]
    result = full(model)
    assert list(result.attacks) == ["apgd-ce", "apgd-t", "fab-t", "square", "cr", "pgd-50-10"]
    assert result.not_run == {
        "transfer": "needs a second model (transfer_from)",
        "apgd-ce-rand": "is for random forward passes",
        "apgd-dlr-rand": "is for random forward passes",
    }
    assert "10 uniform starts" in result.settings["pgd-50-10"]
    assert 0 < result.robust < 1
    assert result.robust == min(result.attacks.values())


@pytest.fixture
def without_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    """The full suite less the attacks of the standard one."""
    rest = SUITES["full"].attacks[4:]
    monkeypatch.setitem(SUITES, "full", type(SUITES["full"])("a test's suite", rest))


@pytest.mark.usefixtures("without_autoattack")
def test_examples_of_a_second_model_are_tried_on_the_first() -> None:
    class Opaque(Wrapped):
        """The same function without its gradient."""

        def forward(self, x: Tensor) -> Tensor:
            return self.model((x * 2550).round() / 2550)

    model = linear_task(8)[0]
    for norm, epsilon in (("linf", 3 / 255), ("l2", 0.1)):
        alone = full(Opaque(model), epsilon=epsilon, norm=norm)
        helped = full(Opaque(model), epsilon=epsilon, norm=norm, transfer_from=model)
        assert alone.robust > helped.robust
        assert helped.robust == helped.attacks["transfer"]
        assert "transfer" in helped.broken_by
        assert ("cr" in helped.attacks) == (norm == "linf")


@pytest.mark.usefixtures("without_autoattack")
def test_random_models_get_autoattacks_version_for_them() -> None:
    model = linear_task(8)[0]
    one, two = full(Noisy(model)), full(Noisy(model))
    assert list(one.attacks)[-2:] == ["apgd-ce-rand", "apgd-dlr-rand"]
    assert one.attacks["apgd-dlr-rand"] <= one.attacks["apgd-ce-rand"] < 1
    assert "averaged over 20" in one.settings["apgd-ce-rand"]
    assert numbers(one) == numbers(two), "random models too give the same numbers for the same seed"


@pytest.mark.slow
def test_autoattack_in_l2() -> None:
    model, x, y = linear_task(10)
    result = measure(model, x, y, ThreatModel(0.06, "l2"), "standard")
    logits, towards = model(x), model.weight.detach().unsqueeze(0) - model.weight.detach()[y].unsqueeze(1)
    best = logits - logits.gather(1, y.unsqueeze(1)) + 0.06 * towards.norm(dim=2)  # no pixel is near the box
    best.scatter_(1, y.unsqueeze(1), float("-inf"))
    assert 0 < result.robust < 1
    assert result.robust == pytest.approx((best.amax(1) <= 0).float().mean().item())


def test_a_file_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        run(suite="fgsm", save_examples=tmp_path / "file" / "examples.safetensors")
