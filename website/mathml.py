"""Equations as MathML, which browsers draw themselves: no script and no font has to be loaded."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

DISPLAY = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.M | re.S)
INLINE = re.compile(r"(?<![\w$\\])\$(?=[^\s$])([^$\n]+?)(?<=\S)\$(?![\w$])")


def with_mathml(text: str, code: re.Pattern[str]) -> str:
    """Markdown whose ``$...$`` and ``$$...$$`` outside code have become MathML.

    Args:
        code: what is code, and stays as it is.
    """
    parts, start = [], 0
    for found in code.finditer(text):
        parts += [_converted(text[start : found.start()]), found[0]]
        start = found.end()
    return "".join([*parts, _converted(text[start:])])


def _converted(text: str) -> str:
    text = DISPLAY.sub(lambda found: f'<div class="equation">{_mathml(found[1], "block")}</div>', text)
    # In a span, since Markdown takes a line that begins with a tag it does not know for a block of its own.
    return INLINE.sub(lambda found: f"<span>{_mathml(found[1], 'inline')}</span>", text)


def _mathml(latex: str, display: str) -> str:
    """MathML in one line, of which Markdown reads nothing as its own."""
    return convert(" ".join(latex.split()), display=display).replace("*", "&#42;").replace("_", "&#95;")
