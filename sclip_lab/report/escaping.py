"""Names in HTML, LaTeX, markdown and file names: a stranger's label is text and nothing else."""

from __future__ import annotations

import hashlib
import html as markup
import re

_LONGEST = 120  # letters of a file's name without its ending
_LATEX = {"\\": r"\textbackslash ", "~": r"\textasciitilde ", "^": r"\textasciicircum "}
_LATEX |= {sign: "\\" + sign for sign in "&%$#_{}"} | {sign: f"${sign}$" for sign in "<>"}
_MARKDOWN = {"\\": "\\\\", "|": "\\|", "`": "\\`", "<": "&lt;", "](": "]\\("}


def one_line(text: str) -> str:
    """Line breaks, which end a row of a table, and other invisible letters as blanks."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def html(text: str) -> str:
    """As an element's text or a quoted attribute."""
    return markup.escape(one_line(text))


def latex(text: str) -> str:
    """As text of a cell."""
    return "".join(_LATEX.get(sign, sign) for sign in one_line(text))


def markdown(text: str) -> str:
    """As a cell of a table."""
    for sign, code in _MARKDOWN.items():
        text = text.replace(sign, code)
    return one_line(text)


def file_name(name: str) -> str:
    """As a file's name without its ending: letters, digits, ``_``, ``.`` and ``-``."""
    text = name.encode("utf-8", "replace")
    plain = re.sub(r"[^\w.-]+", "_", text.decode()).lstrip(".") or "_"
    if len(plain.encode()) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST // 4]}-{hashlib.sha256(text).hexdigest()[:12]}"
