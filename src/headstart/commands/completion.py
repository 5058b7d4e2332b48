"""``headstart completion``."""

from __future__ import annotations

from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from headstart.errors import extra

EPILOG = (
    'bash: eval "$(headstart completion bash)" in ~/.bashrc; zsh: headstart completion zsh > "${fpath[1]}/_headstart"; '
    "fish: headstart completion fish > ~/.config/fish/completions/headstart.fish"
)


def add_arguments(sub: ArgumentParser) -> None:
    """The flags of the command."""
    sub.add_argument("shell", type=Literal["bash", "zsh", "fish"], help="whose: bash, zsh or fish")


def run(options: Namespace) -> int:
    """Run it; the exit code. The script is whole, so that a key press starts no Python."""
    with extra("completion"):
        import shtab  # noqa: F401

    from headstart.commands.list import LISTS
    from headstart.commands.main import make_parser
    from headstart.recipes.reader import recipe_names

    recipes = [*recipe_names()]
    words = {("train", "recipe"): recipes, ("bench", "recipes"): recipes, ("list", "what"): [*LISTS]}
    parser = make_parser(words)
    print(parser.get_completion_script(f"shtab-{options.shell}"))
    return 0
