"""The recipe books, one YAML file per data set, and the reader of recipes by name or from a file."""

from __future__ import annotations

import copy
import dataclasses
import functools
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from headstart.errors import SettingError, unknown
from headstart.fields import KINDS
from headstart.recipes.recipe import Recipe

YAML = (".yaml", ".yml")


def recipe_names() -> dict[str, str]:
    """Built-in recipes, DATASET/METHOD, each with a one-line summary."""
    from headstart.methods.registry import methods

    names: dict[str, str] = {}
    for dataset, book in _books().items():
        names |= {f"{dataset}/{m}": f"{e.summary} On {book['summary']}." for m, e in methods().items()}
    return names


def load_recipe(name: str, **overrides: Any) -> Recipe:
    """A built-in recipe (DATASET/METHOD) or a YAML file, with fields overridden.

    A file may start from another recipe with the key ``recipe``. ``method_args`` and ``model_args`` are merged key
    by key; those that the recipe was written with are dropped when its method or its network is overridden.

    Raises:
        SettingError: unknown recipe or key, unreadable file, or an invalid value.
    """
    for key in overrides:
        if key not in Recipe.__dataclass_fields__:
            raise unknown("recipe field", key, Recipe.__dataclass_fields__)
    return Recipe(**changed(name, overrides))


def changed(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe with ``changes``; another method drops the settings that were written for the first."""
    fields = recipe_fields(name)
    if changes.get("method", fields.get("method")) != fields.get("method"):
        fields["method_args"] = {}
        if Path(name).suffix not in YAML:
            fields = recipe_fields(f"{name.split('/')[0]}/{changes['method']}")
    return merge(fields, changes)


def recipe_fields(name: str) -> dict[str, Any]:
    """The fields that a recipe sets, by name or from a YAML file."""
    if Path(name).suffix in YAML:
        return _from_file(Path(name))
    from headstart.methods.registry import methods

    books = _books()
    dataset, _, method = name.partition("/")
    if dataset not in books or not method:
        known = method if method in methods() else "METHOD"
        raise unknown("recipe", name, books, part=dataset, frame=f"{{}}/{known}")
    if method not in methods():
        raise unknown("recipe", name, methods(), part=method, frame=f"{dataset}/{{}}")
    return merge(merge(_base(dataset, books), {"method": method}), _changes(dataset, method, books))


def every_recipe(dataset: str) -> list[str]:
    """The recipes of all methods on a data set, without methods that are another by a second name.

    Raises:
        SettingError: no recipes are known for that name.
    """
    from headstart.methods.registry import methods

    if dataset not in (books := _books()):
        raise unknown("data set with recipes", dataset, books)
    return [f"{dataset}/{name}" for name, entry in methods().items() if entry.same_as is None]


def _base(dataset: str, books: dict[str, Any]) -> dict[str, Any]:
    """What all methods share on a data set: its base over that of the set it is like."""
    book = books[dataset]
    return merge(_base(book["like"], books), book["base"]) if "like" in book else dict(book["base"])


def _changes(dataset: str, method: str, books: dict[str, Any]) -> dict[str, Any]:
    """What a method changes on a data set, over what it changes on the set it is like."""
    book = books[dataset]
    changes = book.get("methods", {}).get(method, {})
    return merge(_changes(book["like"], method, books), changes) if "like" in book else changes


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` over ``base``; the two dictionaries of arguments are merged key by key.

    Another network drops the arguments of the first: a width means something else there, or nothing.
    """
    merged = base | changes
    if merged.get("model") != base.get("model", merged.get("model")):
        base = base | {"model_args": {}}
    for key in ("method_args", "model_args"):
        if key in base or key in changes:
            parts = [source.get(key, {}) for source in (base, changes)]
            if wrong := [part for part in parts if not isinstance(part, dict)]:
                raise SettingError(f"{key} is {wrong[0]!r}; it must be {KINDS[dict]}")
            merged[key] = parts[0] | parts[1]
    return merged


def save_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved recipe as YAML, readable by ``load_recipe``."""
    path.write_text(yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False))


def _books() -> dict[str, Any]:
    """The recipe files of the package: one per data set, a base and what each method changes, or the set it is like."""
    return copy.deepcopy(_parsed_books())  # recipes hold parts of it, and belong to their owners


@functools.cache
def _parsed_books() -> dict[str, Any]:
    folder = resources.files("headstart.recipes") / "books"
    files = [f for f in folder.iterdir() if f.name.endswith(".yaml")]
    return {f.name.removesuffix(".yaml"): yaml.safe_load(f.read_text()) for f in sorted(files, key=lambda f: f.name)}


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingError(f"recipe file {path} does not exist; headstart list recipes shows the built-in ones")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"recipe file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SettingError(f"recipe file {path} must hold keys and values; see the built-in recipes")
    for key in content:
        if key not in Recipe.__dataclass_fields__ and key != "recipe":
            raise unknown(f"key in {path}:", str(key), [*Recipe.__dataclass_fields__, "recipe"])
    base = content.pop("recipe", None)
    return changed(str(base), content) if base else content
