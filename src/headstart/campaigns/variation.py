"""One recipe in several variants that differ in a single setting: an ablation."""

from __future__ import annotations

from typing import Any

import yaml

from headstart.errors import SettingError


def variants(text: str) -> dict[str, dict[str, Any]]:
    """What ``FIELD=[VALUE, ...]`` says: the recipe fields of each variant, by what sets it apart.

    ``method_args.generator_every=[1, 20]`` is ``{"generator_every=1": {"method_args": {"generator_every": 1}}, ...}``.

    Raises:
        SettingError: another form, or one value twice.
    """
    name, _, listed = text.partition("=")
    try:
        values = yaml.safe_load(listed)
    except yaml.YAMLError:
        values = None
    if not name.strip() or not isinstance(values, list) or not values:
        raise SettingError(f"vary is {text!r}; it must be FIELD=[VALUE, ...], such as lr=[0.1, 0.2]")
    found = {}
    for value in values:
        *outer, last = name.strip().split(".")
        fields: dict[str, Any] = {last: value}
        for key in reversed(outer):
            fields = {key: fields}
        found[f"{last}={value}"] = fields
    if len(found) < len(values):
        raise SettingError(f"vary is {text!r}; it names a value twice")
    return found
