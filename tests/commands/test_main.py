"""The command line: exit codes, one readable line for every mistake, and the contract other tools build on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from headstart.commands import list as listing
from headstart.commands.list import LISTS, rows_of
from headstart.commands.main import COMMANDS, main
from headstart.models import build_model

Capture = pytest.CaptureFixture[str]
TRAIN = ["train", "digits/fgsm-rs"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs land in an empty folder, decoded images too; one thread is faster for small networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, of two epochs."""
    out = tmp_path_factory.mktemp("cli") / "run"
    flags = (
        "--epochs 2 --batch_size 256 --model_args.widths [4,8] --epsilon 8/255 --epsilon_ramp 0 --pad 0 --val_size 50"
    )
    assert main([*TRAIN, *flags.split(), "--out", str(out)]) == 0
    return out


def refused(capsys: Capture, *arguments: str) -> str:
    """The one line on stderr of a command that exits with 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("headstart: ")
    return captured.err.removeprefix("headstart: ").strip()


# -- flags and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--epohcs 3", "unknown flag --epohcs; did you mean --epochs? (headstart train --help lists them)"),
        ("--epohcs=3", "unknown flag --epohcs; did you mean --epochs? (headstart train --help lists them)"),
        ("--epoch 3", "unknown flag --epoch; did you mean --epochs? (headstart train --help lists them)"),
        ("--batch-size 3", "unknown flag --batch-size; did you mean --batch_size? (headstart train --help lists them)"),
        ("--suite pgd", "unknown flag --suite (headstart train --help lists them)"),
        ("--method_arg.alpha 3", "unknown flag --method_arg.alpha; did you mean --method_args?"),
        ("again", "unexpected 'again' after headstart train (headstart train --help)"),
        ("--epochs abc", "--epochs is 'abc'; it must be a whole number"),
        ("--epochs=abc", "--epochs is 'abc'; it must be a whole number"),
        ("--epochs 1.5", "--epochs is '1.5'; it must be a whole number"),
        ("--epochs", "--epochs needs a value (headstart train --help)"),
        ("--epochs -3", "epochs is -3; it must be at least 1"),
        ("--batch_size 0", "batch_size is 0; it must be at least 1"),
        ("--max_steps -1", "max_steps is -1; it must be at least 1"),
        ("--lr -0.1", "lr is -0.1; it must be above 0"),
        ("--lr quick", "--lr is 'quick'; it must be a number"),
        ("--seed -1", "seed is -1; it must be at least 0"),
        ("--epsilon 8", "epsilon is 8; it must be a pixel fraction between 0 and 1; did you mean 8/255?"),
        ("--epsilon -8/255", "epsilon is -8/255; it must be a pixel fraction between 0 and 1"),
        ("--epsilon=-8/255", "epsilon is -8/255; it must be a pixel fraction between 0 and 1"),
        ("--epsilon eight", "epsilon is 'eight'; write a pixel fraction such as 8/255 or 0.03"),
        ("--precision fp16", "--precision is 'fp16'; it must be one of fp32, bf16; did you mean bf16?"),
        (
            "--schedule onecycle",
            "it must be one of one-cycle, triangular, multi-step, constant; did you mean one-cycle?",
        ),
        ("--compile maybe", "--compile is 'maybe'; it must be true or false"),
        ("--milestones 3", "--milestones is '3'; it must be a list of whole numbers such as [100, 105]"),
        ("--milestones [3,x]", "it must be a list of whole numbers such as [100, 105]"),
        ("--method_args 3", "--method_args is '3'; it must be keys and values such as {alpha: 0.1}"),
        ("--method_args.relative_alpa 1", "did you mean 'relative_alpha'?"),
        ("--model_args.width 1", "model small: "),
        ("--method fgsm-sdl", "unknown recipe 'digits/fgsm-sdl'; did you mean 'digits/fgsm-sdi'?"),
        ("--model smal", "unknown model 'smal'; did you mean 'small'?"),
        ("--data digit", "unknown data set 'digit'; did you mean 'digits'?"),
        ("--data parquet:nowhere", "data folder nowhere does not exist; give parquet:PATH"),
        ("--device tpu", "unknown device 'tpu'; did you mean 'cpu'? (allowed: auto, cpu, cuda, cuda:INDEX)"),
        ("--device cuda:0 --devices 2", "device cuda:0 is one device, but devices is 2; use device cuda"),
        ("--log wand", "--log is 'wand'; it must be one of auto, tensorboard, csv, wandb, mlflow, none; did you mean"),
        ("--norm l-inf", "unknown norm 'l-inf'; did you mean 'linf'?"),
        ("--val_size 5000", "val_size is 5000; digits (train) has 1297 images"),
    ],
)
def test_train_explains(capsys: Capture, tmp_path: Path, arguments: str, line: str) -> None:
    assert line in refused(capsys, *TRAIN, *arguments.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("", f"give a command: {', '.join(COMMANDS)}"),
        ("trian digits/fgsm-rs", "unknown command 'trian'; did you mean 'train'?"),
        ("--epochs 3", "unknown command '--epochs'"),
        ("train", "train needs RECIPE (headstart train --help)"),
        ("train digits/fgsm-sdl", "unknown recipe 'digits/fgsm-sdl'; did you mean 'digits/fgsm-sdi'?"),
        ("train digits/nope", "unknown recipe 'digits/nope' (allowed: digits/"),
        ("train nothing/fgsm-sdi", "unknown recipe 'nothing/fgsm-sdi' (allowed: cifar10"),
        ("train dgits/fgsm-sdi", "did you mean 'digits/fgsm-sdi'?"),
        ("train mine.yaml", "recipe file mine.yaml does not exist"),
        ("evaluate", "evaluate needs SOURCE"),
        ("evaluate nowhere", "nowhere does not exist; give a run folder, a weights file, hub:OWNER/NAME or module:"),
        ("evaluate nowhere --n ten", "--n is 'ten'; it must be a whole number"),
        ("evaluate nowhere --siute pgd", "unknown flag --siute; did you mean --suite?"),
        ("evaluate nowhere --device tpu", "unknown device 'tpu'"),
        ("sweep nowhere", "nowhere does not exist; give a run folder, a weights file, hub:OWNER/NAME or module:"),
        ("sweep nowhere --suite pdg --data digits --epsilon 0", "nowhere does not exist"),
        ("compare one", "compare needs B"),
        ("compare nowhere elsewhere", "nowhere does not exist; give a run folder"),
        ("compare nowhere elsewhere --n ten", "--n is 'ten'; it must be a whole number"),
        ("compare nowhere.json elsewhere", "nowhere.json cannot be read as the JSON of an evaluation"),
        ("list", "list needs WHAT"),
        ("list methodz", "unknown list 'methodz'; did you mean 'methods'?"),
        ("list recipes imagenett", "no recipes with 'imagenett' in their name; headstart list recipes shows all"),
        ("resume nowhere", "nowhere is not a run: it has no config.yaml"),
        ("resume", "resume needs RUN"),
        ("completion tcsh", "tcsh"),
        ("list methods --jsn", "unknown flag --jsn; did you mean --json?"),
        ("demo --seed x", "--seed is 'x'; it must be a whole number"),
        ("bench digits/fgsm-rs --seeds 3", "--seeds is '3'; it must be a list of whole numbers"),
        ("bench digits/fgsm-rs --seeds [0,b]", "it must be a list of whole numbers"),
        ("report nowhere", "no run directory 'nowhere'"),
    ],
)
def test_other_commands_explain(capsys: Capture, arguments: str, line: str) -> None:
    assert line in refused(capsys, *arguments.split())


def test_help_and_version_are_no_errors(capsys: Capture) -> None:
    for arguments, shown in [
        (["--help"], "evaluate"),
        (["train", "--help"], "--epsilon"),
        (["--version"], "headstart"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert shown in capsys.readouterr().out


@pytest.mark.parametrize("arguments", ["['--help']", "['train', '--help']", "['list', 'datsets']", "['--version']"])
def test_answers_before_torch_is_loaded(arguments: str) -> None:
    """Help within a fraction of a second."""
    code = (
        "import sys, headstart.commands.main\n"
        f"try: headstart.commands.main.main({arguments})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'lightning_fabric', 'datasets', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_exits_as_promised(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headstart", "train", "digits/fgsm-rs", "--epohcs", "3"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 2
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert "Traceback" not in done.stderr


# -- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", LISTS)
def test_lists_are_json_with_name_and_summary(capsys: Capture, what: str) -> None:
    assert main(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    keys = {"name", "summary"} | ({"source", "passes"} if what == "methods" else set())
    assert rows
    for row in rows:
        assert keys <= row.keys()
        assert all(isinstance(row[key], str) and row[key] for key in keys)
        assert "\n" not in row["summary"]
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)
    expected = {
        "methods": {"fgsm", "fgsm-rs", "fgsm-sdi", "pgd-at", "trades", "free"},
        "recipes": {"digits/fgsm-sdi", "cifar10/fgsm-sdi"},
        "datasets": {"digits", "cifar10", "parquet:PATH"},
        "models": {"resnet18", "preact-resnet18", "wide-resnet34-10", "small"},
        "attacks": {"fgsm", "pgd-50", "cw-20", "apgd-ce", "apgd-t", "fab-t", "square"},
        "suites": {"fgsm", "pgd", "quick", "standard", "full"},
    }
    assert expected[what] <= set(names)


def said(capsys: Capture, *arguments: str) -> list[str]:
    """What a command prints."""
    assert main(arguments) == 0
    return capsys.readouterr().out.splitlines()


def test_lists_for_people_have_one_line_an_entry(capsys: Capture) -> None:
    every = said(capsys, "list", "recipes")
    assert [line.split()[0] for line in every] == [row["name"] for row in rows_of("recipes")]
    of_digits = said(capsys, "list", "recipes", "digits")
    assert 30 < len(of_digits) < len(every) / 5
    assert all(line.startswith("digits/") for line in of_digits)


def test_one_entry_is_told_in_full(capsys: Capture) -> None:
    told = "\n".join(said(capsys, "list", "methods", "fgsm-sdi"))
    for part in ("Jia et al.", "linf", "generator_width: 64", "(2+2/k)Bx"):
        assert part in told
    assert "headstart train --show digits/fgsm-sdi" in "\n".join(said(capsys, "list", "recipes", "digits/fgsm-sdi"))


def test_output_that_nobody_reads_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "headstart", "list", "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as head does, only sooner
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_a_broken_pipe_to_anybody_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "run", lambda options: (_ for _ in ()).throw(BrokenPipeError("a worker")))
    with pytest.raises(BrokenPipeError, match="a worker"):
        main(["list", "recipes"])


@pytest.mark.parametrize(
    "arguments",
    ["train digits/fgsm --out file/run", "demo --out file/demo", "bench digits/fgsm --out file/bench",
     "report nowhere --out file/page.html"],
)  # fmt: skip
def test_a_file_in_the_way_of_the_output(capsys: Capture, tmp_path: Path, arguments: str) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(arguments.split()) == 2
    told = capsys.readouterr().err
    assert "cannot write to file" in told
    assert "file is a file; choose another out" in told
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_path_that_cannot_be(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "File name too long" in refused(capsys, "train", "digits/fgsm", "--out", "x" * 300)
    full = OSError(errno.EMFILE, "Too many open files", "somewhere")
    monkeypatch.setattr(listing, "run", lambda options: (_ for _ in ()).throw(full))
    assert refused(capsys, "list", "recipes") == "somewhere: Too many open files"


def test_help_tells_the_exit_codes(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for code in ("0 done", "1 it ran and the answer is no", "2 the input is wrong", "130 interrupted"):
        assert code in told


def test_completion_offers_commands_flags_and_recipes(capsys: Capture, tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text("\n".join(said(capsys, "completion", "bash")))
    ask = (
        "source completion.bash; f=$(complete -p headstart | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); $f; echo ${COMPREPLY[@]}; }\n'
        "try headstart re; try headstart train digits/fgsm-s; try headstart train digits/fgsm --epsil\n"
        "try headstart train digits/fgsm --precision ''"
    )
    answers = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.splitlines()
    assert answers == ["resume report", "digits/fgsm-sdi", "--epsilon --epsilon_ramp", "fp32 bf16"]
    for shell in ("zsh", "fish"):
        assert "digits/fgsm-sdi" in "\n".join(said(capsys, "completion", shell))


# -- from training to a report ----------------------------------------------------------------------------------------


def test_train_writes_what_was_asked_for(run: Path) -> None:
    import yaml

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["method"], config["epochs"], config["epsilon"]) == ("fgsm-rs", 2, 8 / 255)
    assert config["model_args"]["widths"] == [4, 8]
    assert (run / "model.safetensors").exists()
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_train_names_its_folder_and_the_next_step(capsys: Capture, tmp_path: Path) -> None:
    flags = ["--epochs", "1", "--max_steps", "1", "--model_args.widths", "[4,8]", "--seed", "7"]
    assert main([*TRAIN, *flags]) == 0
    assert (tmp_path / "runs" / "digits-fgsm-rs-7" / "model.safetensors").exists()
    assert "headstart evaluate runs/digits-fgsm-rs-7" in capsys.readouterr().out
    assert "run runs/digits-fgsm-rs-7 exists; continue it with resume" in refused(capsys, *TRAIN, *flags)
    assert "epochs is 2 but run" in refused(capsys, *TRAIN, *flags, "--resume", "--epochs", "2")


@pytest.mark.parametrize(("suite", "attacks"), [("fgsm", 1), ("pgd", 5)])
def test_train_evaluate_round_trip(capsys: Capture, run: Path, suite: str, attacks: int) -> None:
    assert main(["evaluate", str(run), "--suite", suite, "--n", "20", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    record = json.loads((run / "evaluation.json").read_text())
    assert {
        "suite",
        "n",
        "epsilon",
        "clean",
        "robust",
        "attacks",
        "warnings",
        "seconds",
        "environment",
    } <= record.keys()
    assert (record["suite"], record["n"], record["epsilon"]) == (suite, 20, 8 / 255)
    assert len(record["attacks"]) == attacks
    for accuracy in (record["clean"], record["robust"], *record["attacks"].values()):
        assert 0 <= accuracy <= 1
        assert accuracy * 20 == pytest.approx(round(accuracy * 20))
    assert record["robust"] <= min(record["attacks"].values()) <= record["clean"]
    assert any("20" in warning and "500" in warning for warning in record["warnings"])
    assert record["seconds"] > 0
    assert record["environment"]["torch"] == torch.__version__
    assert f"{record['robust']:.2%}" in printed
    for warning in record["warnings"]:
        assert f"warning: {warning}" in printed


def test_evaluate_writes_where_it_is_told(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (run / "evaluation.json").unlink(missing_ok=True)
    command = ["evaluate", str(run / "model.safetensors"), "--suite", "fgsm", "--n", "3", "--epsilon", "4/255"]
    assert main([*command, "--out", "new/mine.json"]) == 0
    assert json.loads((tmp_path / "new" / "mine.json").read_text())["epsilon"] == 4 / 255
    assert not (run / "evaluation.json").exists()
    capsys.readouterr()
    (tmp_path / "file").write_text("in the way")
    assert main([*command, "--out", "file/mine.json"]) == 2
    assert "cannot write file/mine.json" in capsys.readouterr().err


# -- weights that cannot be evaluated ---------------------------------------------------------------------------------


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("must-not-exist",)


def test_evaluate_refuses_files_it_cannot_trust(capsys: Capture, run: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-10])
    assert "cut.safetensors is not a complete safetensors file" in refused(capsys, "evaluate", "cut.safetensors")
    torch.save({"state_dict": Malice()}, "code.pt")
    line = refused(capsys, "evaluate", "code.pt", "--model", "small", "--data", "digits", "--epsilon", "0.1")
    assert "a pickle with code (posix.mkdir), which is refused" in line
    assert not (tmp_path / "must-not-exist").exists()
    (tmp_path / "empty").mkdir()
    assert "empty has no model.safetensors; is the run finished?" in refused(capsys, "evaluate", "empty")


def test_evaluate_refuses_weights_of_another_network(capsys: Capture, run: Path, tmp_path: Path) -> None:
    told = ["--suite", "fgsm", "--data", "digits", "--epsilon", "0.1"]
    line = refused(capsys, "evaluate", str(run), "--model", "resnet18", "--model_args", "{}")
    assert "does not fit the network resnet18 (missing layer1.1.conv1.weight, " in line
    assert "it is of small" in line
    save_file(build_model("small", 7, 1).state_dict(), tmp_path / "seven.safetensors")
    line = refused(capsys, "evaluate", "seven.safetensors", "--model", "small", *told)
    assert "seven.safetensors is for 7 classes, the network small here for 10" in line
    line = refused(capsys, "evaluate", "seven.safetensors", *told)
    assert "does not say which network it belongs to; give its name as model" in line


def test_evaluate_refuses_data_of_other_classes(capsys: Capture, run: Path) -> None:
    from tests.data.pictures import encoded, pixels, write

    images = [encoded(image) for image in pixels(6, size=(8, 8), channels=1)]
    write(Path("pets/test.parquet"), images, [0, 1, 2, 0, 1, 2], ["cat", "dog", "eel"])
    line = refused(capsys, "evaluate", str(run), "--suite", "fgsm", "--data", "parquet:pets")
    assert "pets (test) has 3 classes, but the weights were trained on the 10 of digits" in line
    write(Path("pets/test.parquet"), [encoded(image) for image in pixels(10, size=(8, 8))], list(range(10)))
    line = refused(capsys, "evaluate", str(run), "--suite", "fgsm", "--data", "parquet:pets")
    assert "pets (test) is in colour, but the weights were trained on grey images" in line
    write(Path("pets/test.parquet"), [encoded(image) for image in pixels(2, size=(8, 8), channels=1)], [0, -1])
    assert "label -1 in row 1" in refused(capsys, "evaluate", str(run), "--data", "parquet:pets")
