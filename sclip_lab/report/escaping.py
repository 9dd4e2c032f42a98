"""Escape names for HTML, LaTeX, markdown and file names, so that any label is text, never code."""

from __future__ import annotations

import hashlib
import html as markup
import re

_LONGEST = 120  # letters of a file's name without its ending
_LATEX = {"\\": r"\textbackslash ", "~": r"\textasciitilde ", "^": r"\textasciicircum "}
_LATEX |= {sign: "\\" + sign for sign in "&%$#_{}"} | {sign: f"${sign}$" for sign in "<>"}
_MARKDOWN = {"\\": "\\\\", "|": "\\|", "`": "\\`", "<": "&lt;", "](": "]\\("}


def one_line(text: str) -> str:
    """Replace line breaks, which end a row of a table, and other unprintable signs by blanks."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def html(text: str) -> str:
    """Escape a text for an HTML element or a quoted attribute."""
    return markup.escape(one_line(text))


def latex(text: str) -> str:
    """Escape a text for a cell of a LaTeX table."""
    return "".join(_LATEX.get(sign, sign) for sign in one_line(text))


def markdown(text: str) -> str:
    """Escape a text for a cell of a markdown table."""
    for sign, code in _MARKDOWN.items():
        text = text.replace(sign, code)
    return one_line(text)


def file_name(name: str) -> str:
    """Turn a name into a file's name without ending: letters, digits, ``_``, ``.`` and ``-``. A
    long name is cut and gets a digest."""
    text = name.encode("utf-8", "replace")
    plain = re.sub(r"[^\w.-]+", "_", text.decode()).lstrip(".") or "_"
    if len(plain.encode()) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST // 4]}-{hashlib.sha256(text).hexdigest()[:12]}"
