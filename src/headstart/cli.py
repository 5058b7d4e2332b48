"""The command line: thin, one function per command."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from headstart.config import Recipe, describe, load_recipe
from headstart.errors import LostProcess, UserError, unknown

LISTS = ("methods", "recipes", "datasets", "models", "attacks", "suites")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 done, 2 the input is wrong (one line on stderr), 130 interrupted with the state saved."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = make_parser()
        try:
            options = parser.parse_args(arguments)
        except argparse.ArgumentError as error:
            raise UserError(_explain(str(error), arguments)) from error
        command = options.pop("command")
        return COMMANDS[command](options.pop(command))
    except UserError as error:
        print(f"headstart: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except LostProcess as error:
        print(f"headstart: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("headstart: interrupted", file=sys.stderr)
        return 130


def entry() -> None:
    """The installed command."""
    sys.exit(main())


def make_parser() -> ArgumentParser:
    """All commands with their flags."""
    parser = ArgumentParser(
        prog="headstart",
        description="Train image classifiers that withstand adversarial examples, fast, and measure that they do.",
        exit_on_error=False,
        allow_abbrev=False,
        version=_version(),
    )
    commands = parser.add_subcommands(required=True, dest="command")
    for name, (make, summary) in PARSERS.items():
        sub = ArgumentParser(description=summary, exit_on_error=False, allow_abbrev=False)
        make(sub)
        commands.add_subcommand(name, sub, help=summary)
    return parser


def _version() -> str:
    from headstart import __version__

    return __version__


def _explain(message: str, arguments: Sequence[str]) -> str:
    """One readable line for what the parser refused: the flag, the value and what is allowed."""
    message = " ".join(message.split())
    command = arguments[0] if arguments else ""
    if command not in PARSERS:
        return str(unknown("command", command, PARSERS)) if command else f"give a command: {', '.join(PARSERS)}"
    if refused := re.match(r'Parser key "([\w.]+)":', message):
        name = refused[1].removeprefix(f"{command}.")
        value = re.search(r"(?:Given|Got) value: (.*)", message)
        return _explain_value(command, name, value[1] if value else None)
    if stray := re.match(r"unrecognized arguments: (.*)", message):
        words = stray[1].split()
        flags = [word.split("=")[0] for word in words if word.startswith("-")]
        if not flags:
            return f"unexpected {words[0]!r} after headstart {command} (headstart {command} --help)"
        near = difflib.get_close_matches(flags[0].split(".")[0], _actions(command), n=1, cutoff=0.7)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"unknown flag {flags[0]}{hint} (headstart {command} --help lists them)"
    if bare := re.match(r"argument (-\S+): expected one argument", message):
        return f"{bare[1]} needs a value (headstart {command} --help)"
    if missing := re.match(r"the following arguments are required: (.*)", message):
        return f"{command} needs {missing[1].replace(f'{command}.', '').upper()} (headstart {command} --help)"
    return message


def _explain_value(command: str, name: str, value: str | None) -> str:
    """What a flag was given and what it takes."""
    action = _actions(command).get(f"--{name.split('.')[0]}")
    given = f"--{name} is {value!r}" if value is not None else f"--{name} has a value that it does not take"
    allowed = describe(action._typehint) if action is not None and hasattr(action, "_typehint") else "something else"
    near = difflib.get_close_matches(value or "", allowed.removeprefix("one of ").split(", "), n=1)
    hint = f"; did you mean {near[0]}?" if near and allowed.startswith("one of ") else ""
    return f"{given}; it must be {allowed}{hint}"


def _actions(command: str) -> dict[str, argparse.Action]:
    """The flags of a command."""
    sub = ArgumentParser(exit_on_error=False)
    PARSERS[command][0](sub)
    return {option: action for action in sub._actions for option in action.option_strings}


# -- train -----------------------------------------------------------------------------------------------------


def _train_parser(sub: ArgumentParser) -> None:
    sub.add_argument("recipe", type=str, help="DATASET/METHOD (headstart list recipes) or a YAML file")
    sub.add_argument("--out", type=Optional[Path], default=None, help="run folder; default runs/DATASET-METHOD-SEED")
    sub.add_argument("--resume", action="store_true", help="continue the run in the folder")
    hints = get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        # None means: as the recipe says.
        sub.add_argument(f"--{field.name}", type=Optional[hints[field.name]], default=None, help=HELP[field.name])


def _field_help() -> dict[str, str]:
    """One line per recipe field, from the docstring of Recipe."""
    text = (Recipe.__doc__ or "").split("Attributes:")[1]
    lines = [line.strip() for line in text.splitlines() if ": " in line]
    return {name: summary for name, _, summary in (line.partition(": ") for line in lines)}


HELP = _field_help()


def _overrides(options: Namespace) -> dict[str, Any]:
    values = options.as_dict()
    return {k: values[k] for k in Recipe.__dataclass_fields__ if values.get(k) is not None}


def _train(options: Namespace) -> int:
    from headstart import comm
    from headstart.engine.launch import Interrupted
    from headstart.engine.train import train

    recipe = load_recipe(options.recipe, **_overrides(options))
    out = options.out or Path("runs") / f"{Path(options.recipe).stem}-{recipe.method}-{recipe.seed}".lower()
    if options.out is None and "/" in options.recipe and not Path(options.recipe).suffix:
        out = Path("runs") / f"{options.recipe.split('/')[0]}-{recipe.method}-{recipe.seed}"
    try:
        result = train(recipe, out, resume=options.resume)
    except Interrupted:
        flags = " ".join(_quoted(a) for a in sys.argv[2:] if a != "--resume")
        if comm.rank() == 0:
            print(f"interrupted; the state is saved. Continue with: headstart train {flags} --resume", file=sys.stderr)
        return 130
    if comm.rank() > 0:
        return 0
    val = next((row["val"] for row in reversed(result.metrics) if "val" in row), None)
    if val:
        print("validation: clean {clean:.1%}, FGSM {fgsm:.1%}, PGD-10 {pgd:.1%}".format(**val))
    print(f"{result.out}/model.safetensors; measure it with: headstart evaluate {result.out}")
    return 0


def _quoted(argument: str) -> str:
    import shlex

    return shlex.quote(argument)


# -- evaluate --------------------------------------------------------------------------------------------------


def _subject_flags(sub: ArgumentParser) -> None:
    """What evaluate and sweep ask alike: a network, the images, and how it is attacked."""
    sub.add_argument("source", type=str, help="run folder, weights file, hub:OWNER/NAME or module:callable")
    sub.add_argument("--data", type=Optional[str], default=None, help="default: what the weights were trained on")
    sub.add_argument("--image_size", type=Optional[int], default=None, help="of mixed photographs; default as trained")
    sub.add_argument("--image_column", type=Optional[str], default=None, help="of parquet and hub sets")
    sub.add_argument("--label_column", type=Optional[str], default=None, help="of parquet and hub sets")
    sub.add_argument("--n", type=Optional[int], default=None, help="only the first n test images")
    sub.add_argument("--epsilon", type=Optional[str], default=None, help="pixel fraction such as 8/255")
    sub.add_argument("--norm", type=Optional[str], default=None, help="linf or l2")
    sub.add_argument("--model", type=Optional[str], default=None, help="network of a plain state dict")
    sub.add_argument("--model_args", type=Optional[dict[str, Any]], default=None, help="arguments of that network")
    sub.add_argument("--batch_size", type=Optional[int], default=None, help="images per attack batch")
    sub.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    sub.add_argument("--seed", type=int, default=0, help="of the attacks")


def _evaluate_parser(sub: ArgumentParser) -> None:
    _subject_flags(sub)
    sub.add_argument("--suite", type=str, default="standard", help="headstart list suites")
    sub.add_argument("--devices", type=int, default=1, help="processes that share the work; the numbers stay the same")
    sub.add_argument("--search_precision", type=str, default="fp32", help="fp32, tf32 or bf16; verdicts are fp32")
    sub.add_argument("--transfer_from", type=Optional[str], default=None, help="second model, for suite full")
    sub.add_argument("--save_examples", type=Optional[Path], default=None, help=".safetensors for the worst examples")
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file; default evaluation.json in the run")


def _evaluate(options: Namespace) -> int:
    from headstart import comm
    from headstart.engine.evaluate import evaluate
    from headstart.files import check_writable, write_text

    settings = {k: v for k, v in options.as_dict().items() if k not in ("source", "out")}
    out = options.out
    if out is None and Path(options.source).is_dir():
        out = Path(options.source) / "evaluation.json"
    if out is not None:
        check_writable(out)
    partial = None if out is None else out.with_suffix(".partial.safetensors")
    try:
        record = evaluate(options.source, partial=partial, **settings).to_json()
    except KeyboardInterrupt:
        kept = partial is not None and partial.exists()
        remedy = "the same command continues after the last finished attack" if kept else "no attack was finished"
        print(f"headstart: interrupted; {remedy}", file=sys.stderr)
        return 130
    if comm.rank() > 0:
        return 0
    if out is not None:
        write_text(out, json.dumps(record, indent=2) + "\n")
    for name, accuracy in [("clean", record["clean"]), *record["attacks"].items()]:
        print(f"{name:>12}  {accuracy:.2%}")
    measured = f"{record['suite']}, {record['n']} images, {record['seconds']:.0f} s"
    print(f"{'robust':>12}  {record['robust']:.2%}  ({measured})")
    for warning in record["warnings"]:
        print(f"warning: {warning}")
    return 0


# -- sweep, compare ----------------------------------------------------------------------------------------------


def _sweep_parser(sub: ArgumentParser) -> None:
    _subject_flags(sub)
    sub.add_argument("--suite", type=str, default="pgd", help="headstart list suites")
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file; default sweep.json in the run")


def _sweep(options: Namespace) -> int:
    from headstart.engine.sweep import sweep
    from headstart.files import write_text

    settings = {k: v for k, v in options.as_dict().items() if k not in ("source", "out")}
    record = sweep(options.source, **settings).to_json()
    out = options.out
    if out is None and Path(options.source).is_dir():
        out = Path(options.source) / "sweep.json"
    if out is not None:
        write_text(out, json.dumps(record, indent=2) + "\n")
    print(f"{'epsilon':>12}  accuracy ({record['suite']}, {record['n']} images, {record['seconds']:.0f} s)")
    for epsilon, accuracy in zip(record["epsilons"], record["accuracies"], strict=True):
        print(f"{epsilon:>12.4f}  {accuracy:.2%}")
    for warning in record["warnings"]:
        print(f"warning: {warning}")
    return 0


def _compare_parser(sub: ArgumentParser) -> None:
    sub.add_argument("a", type=str, help="run folder, JSON file of an evaluation, or what headstart evaluate takes")
    sub.add_argument("b", type=str, help="the same, of the other model")
    sub.add_argument("--suite", type=Optional[str], default=None, help="default: that of the records, else quick")
    sub.add_argument("--n", type=Optional[int], default=None, help="only the first n test images")
    sub.add_argument("--epsilon", type=Optional[str], default=None, help="pixel fraction such as 8/255")
    sub.add_argument("--data", type=Optional[str], default=None, help="default: what the weights were trained on")
    sub.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    sub.add_argument("--seed", type=int, default=0, help="of attacks and bootstrap")
    sub.add_argument("--out", type=Optional[Path], default=None, help="JSON file")


def _compare(options: Namespace) -> int:
    from headstart.compare import compare
    from headstart.files import write_text

    settings = {k: v for k, v in options.as_dict().items() if k not in ("a", "b", "out")}
    compared = compare(options.a, options.b, **settings)
    if options.out is not None:
        write_text(options.out, json.dumps(compared.to_json(), indent=2) + "\n")
    print(f"suite {compared.suite}, {compared.n} images, epsilon {compared.epsilon:.4g}, norm {compared.norm}")
    print(f"{'robust':>12}  {compared.robust_a:.2%}  {compared.a}")
    print(f"{'robust':>12}  {compared.robust_b:.2%}  {compared.b}")
    print(f"{'robust':>12}  both {compared.both}, only the first {compared.only_a}, only the second {compared.only_b}")
    low, high = (100 * end for end in compared.interval)
    print(f"{'difference':>12}  {100 * compared.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}")
    print(f"{'McNemar':>12}  p = {compared.p_value:.2g}")
    print(compared.verdict)
    return 0


# -- demo, bench, report, list -----------------------------------------------------------------------------------


def _demo_parser(sub: ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for demo.json and report.html")
    sub.add_argument("--seed", type=int, default=0, help="of weights, order and attacks")


def _demo(options: Namespace) -> int:
    from headstart.demo import run_demo

    run_demo(options.out, options.seed)
    return 0


def _bench_parser(sub: ArgumentParser) -> None:
    sub.add_argument(
        "recipes",
        type=str,
        nargs="+",
        help="recipes, or data sets for all methods on them, each trained with every seed",
    )
    sub.add_argument("--seeds", type=list[int], default=[0, 1, 2], help="such as [0,1,2]")
    sub.add_argument("--suite", type=str, default="standard", help="headstart list suites")
    sub.add_argument("--n", type=Optional[int], default=None, help="only the first n test images")
    sub.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder; records that exist are kept")
    sub.add_argument("--set", type=dict[str, Any], default={}, help="recipe fields for all, such as --set.epochs 5")


def _bench(options: Namespace) -> int:
    from headstart.bench import bench

    print(bench(options.recipes, options.seeds, options.suite, options.out, n=options.n, overrides=dict(options.set)))
    return 0


def _report_parser(sub: ArgumentParser) -> None:
    sub.add_argument("runs", type=Path, nargs="+", help="run folders")
    sub.add_argument("--out", type=Path, default=Path("report.html"), help="the page")


def _report(options: Namespace) -> int:
    from headstart.files import write_text
    from headstart.report import load_run, run_page

    write_text(options.out, run_page([load_run(run) for run in options.runs]))
    print(options.out)
    return 0


def _push_parser(sub: ArgumentParser) -> None:
    sub.add_argument("run", type=Path, help="folder of a finished run")
    sub.add_argument("repo", type=str, help="OWNER/NAME on the Hugging Face hub, made if it does not exist")
    sub.add_argument("--private", action="store_true", help="make it for you alone")


def _push(options: Namespace) -> int:
    from headstart.hub import EVALUATION, push

    print(push(options.run, options.repo, private=options.private))
    if not (options.run / EVALUATION).is_file():
        print(f"the card has no numbers yet: headstart evaluate {options.run}, then push again", file=sys.stderr)
    return 0


def _pull_parser(sub: ArgumentParser) -> None:
    sub.add_argument("repo", type=str, help="OWNER/NAME on the Hugging Face hub")
    sub.add_argument("--out", type=Optional[Path], default=None, help="new folder; default runs/NAME")


def _pull(options: Namespace) -> int:
    from headstart.hub import pull

    out = pull(options.repo, options.out or Path("runs") / options.repo.rpartition("/")[2])
    print(f"{out}; measure it with: headstart evaluate {out}")
    return 0


def _list_parser(sub: ArgumentParser) -> None:
    sub.add_argument("what", type=str, help=" | ".join(LISTS))
    sub.add_argument("--json", action="store_true", help="a JSON array instead of a table")


def _list(options: Namespace) -> int:
    from headstart.catalogue import catalogue

    rows = catalogue(options.what)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
    return 0


PARSERS = {
    "demo": (_demo_parser, "train four methods on digits, attack them all, write a page; one to three minutes"),
    "train": (_train_parser, "train a robust classifier by a recipe"),
    "evaluate": (_evaluate_parser, "measure robust accuracy under a suite of attacks"),
    "sweep": (_sweep_parser, "robust accuracy over a growing epsilon, which must reach zero"),
    "compare": (_compare_parser, "two models on the same images: is one more robust?"),
    "bench": (_bench_parser, "recipes x seeds, resumable, with mean and deviation"),
    "report": (_report_parser, "one self-contained page over runs"),
    "push": (_push_parser, "upload a run to the Hugging Face hub, with a card"),
    "pull": (_pull_parser, "download a run from the Hugging Face hub"),
    "list": (_list_parser, "methods, recipes, datasets, models, attacks, suites"),
}
COMMANDS = {
    "demo": _demo, "train": _train, "evaluate": _evaluate, "bench": _bench, "report": _report, "list": _list,
    "push": _push, "pull": _pull, "sweep": _sweep, "compare": _compare,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
