"""Runs to and from the hub, against a stand-in for its HTTP API: what arrives, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import save_file

from headstart.models import build_model
from headstart.recipes.reader import save_recipe
from headstart.recipes.recipe import Recipe
from tests.runs.hub_server import STRANGER, TOKEN, Hub, serving

# The client reads its address and whether it is offline when it is imported, so commands run in a process of their own.
COMMANDS = """
import contextlib, io, json, os, sys
from headstart.commands.main import main
results = []
for token, arguments in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
MEASURE = ["--suite", "fgsm", "--n", "20"]


def session(folder: Path, address: str, *commands: tuple[str, str], **environment: str) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of command lines, each with the token that it has."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    settings |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    asked = json.dumps([(token, line.split()) for token, line in commands])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, asked],
        cwd=folder,
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [tuple(result) for result in json.loads(done.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two runs: one that was evaluated, one that was not."""
    folder = tmp_path_factory.mktemp("hub")
    args = {"widths": [4, 8]}
    recipe = Recipe(data="digits", model="small", model_args=args, method="fgsm-rs", epsilon=0.25, epochs=3, seed=7)
    origin = {"model": "small", "model_args": json.dumps(args), "classes": json.dumps([str(k) for k in range(10)])}
    origin |= {"channels": "1", "data": "digits", "epsilon": "0.25", "norm": "linf"}
    for name in ("run", "fresh"):
        (folder / name).mkdir()
        save_file(build_model("small", 10, 1, args).state_dict(), folder / name / "model.safetensors", origin)
        save_recipe(recipe, folder / name / "config.yaml")
    record = {"suite": "standard", "n": 500, "norm": "linf", "epsilon": 0.25, "clean": 0.963, "robust": 0.273}
    record |= {"attacks": {"apgd-ce": 0.3121, "square": 0.273}, "warnings": ["measured on a part of the test set"]}
    (folder / "run" / "evaluation.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def online(folder: Path) -> tuple[Hub, dict[str, tuple[int, str, str]]]:
    """Everything that needs the hub to answer, in one process; the results by command."""
    commands = [
        (TOKEN, "push run me/net"),
        (TOKEN, "push fresh me/fresh --private"),
        ("", "pull me/net --out pulled"),
        ("", "evaluate hub:me/net --out hub.json " + " ".join(MEASURE)),
        ("", "evaluate run --out run.json " + " ".join(MEASURE)),
        ("", "evaluate pulled --out pulled.json " + " ".join(MEASURE)),
        ("", "train digits/fgsm --model small --weights hub:me/net --max_steps 1 --out tuned"),
        ("", "pull me/net --out pulled "),
        ("", "pull me/none"),
        ("", "pull net"),
        ("", "pull me/else"),
        ("", "evaluate hub:me/none"),
        ("", "push run me/net "),
        (STRANGER, "push run me/net  "),
        (TOKEN, "push nowhere me/net"),
        (TOKEN, "push run a/b/c"),
    ]
    with serving() as hub:
        hub.repositories["me/else"] = [{"pytorch_model.bin": b"of another library", "README.md": b"# Else"}]
        results = session(folder, hub.address, *commands)
    return hub, {line: result for (_, line), result in zip(commands, results, strict=True)}


def test_push_uploads_a_run_and_its_card(folder: Path, online: tuple[Hub, Any]) -> None:
    hub, results = online
    assert results["push run me/net"] == (0, f"{hub.address}/me/net\n", "")
    files = hub.files("me/net")
    assert files.keys() == {"model.safetensors", "config.yaml", "evaluation.json", "README.md"}
    for name in files.keys() - {"README.md"}:
        assert files[name] == (folder / "run" / name).read_bytes()
    card = files["README.md"].decode()
    for said in (
        "library_name: headstart",
        "`small` trained on `digits` with `fgsm-rs`",
        "0.25 (63.8/255) of the pixel range, 3 epochs, seed 7",
        "Suite `standard`, 500 test images, epsilon 0.25",
        "| clean | 96.30 |",
        "| apgd-ce | 31.21 |",
        "| robust | 27.30 |",
        "Warning: measured on a part of the test set",
        "headstart evaluate hub:me/net",
    ):
        assert said in card
    assert str(folder) not in card


def results_of(hub: Hub, repo: str) -> Any:
    """The accuracies in a card's metadata."""
    return cast(ModelCardData, ModelCard(hub.files(repo)["README.md"].decode()).data).eval_results


def test_the_card_tells_machines_what_was_measured(online: tuple[Hub, Any]) -> None:
    hub, _ = online
    clean, robust = results_of(hub, "me/net")
    assert (clean.metric_name, clean.metric_value) == ("clean accuracy", 0.963)
    assert (robust.metric_name, robust.metric_value) == ("robust accuracy", 0.273)
    assert robust.metric_args == {"n": 500, "suite": "standard", "norm": "linf", "epsilon": 0.25}
    assert {(result.dataset_type, result.dataset_split) for result in (clean, robust)} == {("digits", "test")}
    assert results_of(hub, "me/fresh") is None


def test_push_of_a_run_that_was_not_measured(online: tuple[Hub, Any]) -> None:
    hub, results = online
    code, _, err = results["push fresh me/fresh --private"]
    assert (code, err) == (0, "the card has no numbers yet: headstart evaluate fresh, then push again\n")
    assert hub.files("me/fresh").keys() == {"model.safetensors", "config.yaml", "README.md"}
    assert b"Not yet: robust accuracy" in hub.files("me/fresh")["README.md"]
    assert hub.private == {"me/fresh"}


def test_pull_makes_a_folder_that_evaluation_takes(folder: Path, online: tuple[Hub, Any]) -> None:
    hub, results = online
    assert results["pull me/net --out pulled"][:2] == (0, "pulled; measure it with: headstart evaluate pulled\n")
    assert {path.name: path.read_bytes() for path in (folder / "pulled").iterdir()} == hub.files("me/net")
    records = [json.loads((folder / f"{name}.json").read_text()) for name in ("run", "hub", "pulled")]
    for record in records:
        assert (record["n"], record["epsilon"]) == (20, 0.25)
        assert (record["clean"], record["attacks"]) == (records[0]["clean"], records[0]["attacks"])


def test_training_starts_from_the_hub(folder: Path, online: tuple[Hub, Any]) -> None:
    code, _, err = online[1]["train digits/fgsm --model small --weights hub:me/net --max_steps 1 --out tuned"]
    assert code == 0
    assert "starting from hub:me/net\n" in err
    assert "widths:\n  - 4\n  - 8\n" in (folder / "tuned" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("pull me/net --out pulled ", "pulled exists; choose a folder that is new or empty"),
        ("pull me/none", "the hub shows no me/none: check the name, or hf auth login for a private one"),
        ("pull net", "'net' is not a name on the hub; write OWNER/NAME"),
        ("pull me/else", "me/else has no model.safetensors on the hub; headstart reads what headstart push wrote"),
        ("evaluate hub:me/none", "the hub shows no me/none"),
        ("push run me/net ", "no token for the hub: run hf auth login, or set HF_TOKEN"),
        ("push run me/net  ", "the hub refuses me/net (403): is the token yours, and may it write?"),
        ("push nowhere me/net", "nowhere has no model.safetensors; push the folder of a finished run"),
        ("push run a/b/c", "'a/b/c' is not a name on the hub; write OWNER/NAME"),
    ],
)
def test_what_goes_wrong_is_one_line(online: tuple[Hub, Any], command: str, said: str) -> None:
    code, out, err = online[1][command]
    assert (code, out) == (2, "")
    assert err.startswith(f"headstart: {said}")
    assert err.count("\n") == 1


def test_offline_the_cache_is_enough(folder: Path, online: tuple[Hub, Any]) -> None:
    results = session(
        folder,
        online[0].address,
        ("", "evaluate hub:me/net --out again.json " + " ".join(MEASURE)),
        ("", "pull me/other"),
        (TOKEN, "push run me/net"),
        HF_HUB_OFFLINE="1",
    )
    assert results[0][0] == 0
    assert json.loads((folder / "again.json").read_text())["attacks"]
    assert [code for code, *_ in results[1:]] == [2, 2]
    assert results[1][2].startswith("headstart: the hub cannot be reached, and me/other is not in its cache")
    assert results[2][2].startswith("headstart: the hub cannot be reached (")
    assert [err.count("\n") for *_, err in results[1:]] == [1, 1]


def test_a_hub_that_does_not_answer(folder: Path, online: tuple[Hub, Any]) -> None:
    """The stand-in is gone by now, and the cache is a new one."""
    elsewhere = {"HF_HOME": str(folder / "empty"), "HF_HUB_ETAG_TIMEOUT": "1"}
    asked = [("", "pull me/net"), (TOKEN, "push run me/net")]
    results = session(folder, online[0].address, *asked, **elsewhere)
    assert [code for code, *_ in results] == [2, 2]
    assert results[0][2].startswith("headstart: the hub cannot be reached")
    assert results[1][2].startswith("headstart: the hub cannot be reached (")
