"""Modules and functions fit a reader's screen; what does not says why."""

from __future__ import annotations

import ast
from pathlib import Path

import headstart
from tests.architecture.layers import modules

PACKAGE = Path(headstart.__file__).parent
MODULE_LINES, FUNCTION_LINES, ROOT_MODULES = 300, 40, 5

ARGUMENTS = "its arguments and what they mean; the body is short"

LONG = {
    "headstart.attacks.autoattack.attack_of": ARGUMENTS,
    "headstart.attacks.cr._descend": "the published loop, step by step",
    "headstart.attacks.cr.cr_attack": ARGUMENTS,
    "headstart.attacks.pgd.pgd": ARGUMENTS,
    "headstart.methods.fgsm_sdi.build": ARGUMENTS,
}
"""Functions that stay longer than ``FUNCTION_LINES``, each with its reason. One that is short again must go."""

LONG_MODULES: dict[str, str] = {}
"""The same for modules."""


def functions(name: str, source: str) -> dict[str, int]:
    """Lines of every function of a module from its ``def`` to its end, docstring included."""
    found = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{prefix}.{child.name}"
                if not isinstance(child, ast.ClassDef):
                    found[inner] = (child.end_lineno or child.lineno) - child.lineno + 1
            visit(child, inner)

    visit(ast.parse(source), name)
    return found


def test_functions_fit_a_screen() -> None:
    sources = {name: path.read_text() for name, path in modules(PACKAGE).items()}
    lengths = {f: n for name, source in sources.items() for f, n in functions(name, source).items()}
    assert {f: n for f, n in lengths.items() if n > FUNCTION_LINES and f not in LONG} == {}
    assert [f for f in LONG if lengths.get(f, 0) <= FUNCTION_LINES] == [], "short again: take them off the list"


def test_modules_fit_a_few_screens() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules(PACKAGE).items()}
    assert {m: n for m, n in lengths.items() if n > MODULE_LINES and m not in LONG_MODULES} == {}
    assert [m for m in LONG_MODULES if lengths.get(m, 0) <= MODULE_LINES] == [], "short again: take them off the list"


def test_the_root_holds_few_modules() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= ROOT_MODULES


def test_a_function_counts_with_its_docstring_and_inside_a_class() -> None:
    source = 'class A:\n    @cached\n    def f(self):\n        """One.\n\n        Two."""\n        return 1\n\nx = 1\n'
    assert functions("m", source) == {"m.A.f": 5}
