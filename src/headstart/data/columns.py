"""Which columns of a table hold images and labels."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from headstart.errors import DataError, SettingError

LABEL_COLUMNS = ("label", "labels", "fine_label")  # preferred over others that end in "label"


def find_columns(schema: pa.Schema, name: str, image: str | None, label: str | None) -> tuple[str, str]:
    """The image and the label column, by name or by the hub's conventions.

    The image column is the one of type struct<bytes, path>; the label column is called "label", "labels" or
    "fine_label", or else ends in "label", and holds integers.

    Raises:
        DataError: not exactly one such column.
        SettingError: a named one is missing or of another type.
    """
    structs = [field.name for field in schema if pa.types.is_struct(field.type)]
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    if image is None:
        image = _only(structs, "image", name, schema)
    elif image not in schema.names or not (image in structs or _is_binary(schema.field(image).type)):
        raise _wrong_column("image", image, "encoded images", structs, name, schema)
    if label is None:
        likely = [c for c in integers if c in LABEL_COLUMNS] or [c for c in integers if c.endswith("label")]
        label = _only(likely or _no_numbers(schema, name), "label", name, schema)
    elif label not in integers:
        raise _wrong_column("label", label, "whole numbers", integers, name, schema)
    return image, label


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _only(columns: list[str], what: str, name: str, schema: pa.Schema) -> str:
    if len(columns) != 1:
        found = f"found {', '.join(columns)}" if columns else "found none"
        among = ", ".join(schema.names)
        raise DataError(f"{name}: needs exactly one {what} column, {found} among {among}; name it with {what}_column")
    return columns[0]


def _no_numbers(schema: pa.Schema, name: str) -> list[str]:
    """No label column; refused where one is there by its name, but not by what it holds."""
    for field in schema:
        if field.name in LABEL_COLUMNS or field.name.endswith("label"):
            raise DataError(
                f"{name}: column {field.name} holds {field.type}; labels must be whole numbers: write 0, 1, 2, ... for "
                "the classes, or sort the images into folders by class"
            )
    return []


def _wrong_column(
    what: str, given: str, holds: str, allowed: Iterable[str], name: str, schema: pa.Schema
) -> SettingError:
    kind = f"holds {schema.field(given).type}" if given in schema.names else "does not exist"
    choice = ", ".join(allowed) or "none"
    return SettingError(f"{name}: {what}_column {given!r} {kind}; columns that hold {holds}: {choice}")
