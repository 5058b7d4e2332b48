"""The commands together: parsing, and what their errors become."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from jsonargparse import ArgumentParser

from headstart.commands import (
    bench,
    compare,
    completion,
    demo,
    doctor,
    evaluate,
    export,
    inspect,
    pull,
    push,
    report,
    resume,
    sweep,
    train,
)
from headstart.commands import list as listing
from headstart.commands.flags import Help, add_help
from headstart.errors import Interrupted, LostProcess, SettingError, UserError, unknown
from headstart.fields import describe
from headstart.runs.log import show_messages

COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "demo": (demo, "train five methods on digits, attack them all, write a page; one to three minutes"),
    "train": (train, "train a robust classifier by a recipe"),
    "resume": (resume, "go on with a run, from its folder alone; to more epochs if asked"),
    "evaluate": (evaluate, "measure robust accuracy under a suite of attacks"),
    "sweep": (sweep, "robust accuracy over a growing epsilon, which must reach zero"),
    "compare": (compare, "two models on the same images: is one more robust?"),
    "inspect": (inspect, "look inside networks: loss surfaces, starts, Grad-CAM, margins; a page and figures"),
    "bench": (bench, "recipes x seeds, resumable, with mean and deviation"),
    "report": (report, "one self-contained page over runs"),
    "export": (export, "a trained network as ONNX, TorchScript, a state dict or RobustBench's files"),
    "push": (push, "upload a run to the Hugging Face hub, with a card"),
    "pull": (pull, "download a run from the Hugging Face hub"),
    "list": (listing, "methods, recipes, datasets, models, attacks, suites"),
    "doctor": (doctor, "what training has on this machine: device, disk, memory, data; 0 if it can run, else 1"),
    "completion": (completion, "a script that lets the shell complete commands, flags and recipes"),
}

EXIT_CODES = (
    "Exit codes: 0 done; 1 it ran and the answer is no, or a process of the run was lost; 2 the input is wrong (one "
    "line on stderr); 130 interrupted, with what was done saved."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code, see ``EXIT_CODES``."""
    show_messages()
    try:
        code = _run(_joined(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"headstart: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"headstart: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except LostProcess as error:
        print(f"headstart: {error}", file=sys.stderr)
        return 1
    except Interrupted:
        print("headstart: interrupted; the state is saved, and the same command goes on from it", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("headstart: interrupted", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str]) -> int:
    parser = make_parser()
    try:
        options = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise SettingError(_explain(str(error), arguments)) from error
    command = options.pop("command")
    return int(COMMANDS[command][0].run(options.pop(command)))


def _joined(words: Sequence[str]) -> list[str]:
    """The words, with ``--epsilon -8/255`` as ``--epsilon=-8/255``: argparse takes the value for a flag."""
    joined: list[str] = []
    for word in words:
        if re.match(r"-[\d.]", word) and joined and re.fullmatch(r"--[\w.]+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _reader_is_gone() -> bool:
    """Whether nobody reads stdout any more, as after ``| head``; what is left of the output then goes nowhere."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def entry() -> None:
    """The installed command."""
    sys.exit(main())


def make_parser(words: Mapping[tuple[str, str], Sequence[str]] | None = None) -> ArgumentParser:
    """All commands with their flags.

    Args:
        words: what may stand for a positional, by command and name; for completion alone.
    """
    parser = ArgumentParser(
        prog="headstart",
        description="Train image classifiers that withstand adversarial examples, fast, and measure that they do.",
        exit_on_error=False,
        allow_abbrev=False,
        version=_version(),
        formatter_class=Help,
        epilog=EXIT_CODES,
    )
    parser.usage = "headstart COMMAND [--FLAG ...]"
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        sub = ArgumentParser(
            description=summary, epilog=getattr(module, "EPILOG", None), exit_on_error=False, allow_abbrev=False,
            add_help=False,
        )  # fmt: skip
        add_help(sub, getattr(module, "values_for_help", None))
        module.add_arguments(sub)
        for action in sub._actions:
            if words and (name, action.dest) in words:
                action.choices = words[name, action.dest]
        sub.usage = f"headstart {name} {_positionals(sub)}[--FLAG ...]"
        commands.add_subcommand(name, sub, help=summary)
    return parser


def _positionals(sub: ArgumentParser) -> str:
    """What a command takes without a flag, as in its usage."""
    taken = [action for action in sub._actions if not action.option_strings]
    return "".join(f"{action.dest.upper()} {'... ' if action.nargs in ('+', '*') else ''}" for action in taken)


def _version() -> str:
    from headstart import __version__

    return __version__


def _explain(message: str, arguments: Sequence[str]) -> str:
    """One readable line for what the parser refused: the flag, the value and what is allowed."""
    message = " ".join(message.split())
    command = arguments[0] if arguments else ""
    if command not in COMMANDS:
        return str(unknown("command", command, COMMANDS)) if command else f"give a command: {', '.join(COMMANDS)}"
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
    shown = "null" if value == "None" else repr(value)
    given = f"--{name} is {shown}" if value is not None else f"--{name} has a value that it does not take"
    allowed = describe(action._typehint) if action is not None and hasattr(action, "_typehint") else "something else"
    near = difflib.get_close_matches(value or "", allowed.removeprefix("one of ").split(", "), n=1)
    hint = f"; did you mean {near[0]}?" if near and allowed.startswith("one of ") else ""
    return f"{given}; it must be {allowed}{hint}"


def _actions(command: str) -> dict[str, argparse.Action]:
    """The flags of a command."""
    sub = ArgumentParser(exit_on_error=False)
    COMMANDS[command][0].add_arguments(sub)
    return {option: action for action in sub._actions for option in action.option_strings}
