"""The one error a user meets: what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Line breaks and other control letters, and what is no letter at all.
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")


class LabError(ValueError):
    """Bad input. The message names the file, key or value and what would be right, in one line
    whatever the names hold."""

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    """Text with line breaks, control letters and lone surrogates as escapes.

    >>> print(one_line("a\\nb"))
    a\\nb
    """
    if text.isprintable():
        return text
    return "".join(
        ascii(sign)[1:-1] if unicodedata.category(sign) in _NO_TEXT else sign for sign in text
    )


def printable(name: str) -> str:
    """A name in one line of bounded length: line breaks and the like as escapes."""
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name[:200])
    return shown if len(name) <= 200 else f"{shown[:197]}..."


@contextmanager
def about(name: object) -> Iterator[None]:
    """Put a name before the errors within that do not say it, such as a photo's."""
    try:
        yield
    except LabError as error:
        if str(LabError(name)) in str(error):
            raise
        raise LabError(f"{name}: {error}") from error


def unknown(kind: str, name: str, known: Iterable[str]) -> LabError:
    """An error for a name that is not in ``known``, with the nearest ones as a suggestion."""
    known = sorted(known)
    name = printable(str(name))  # a yaml's key may be a number
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    # A list longer than a screen hides the suggestion.
    listing = ", ".join(known) if len(known) <= 60 else f"{len(known)} names"
    return LabError(f"unknown {kind} '{name}'{hint} (known: {listing or 'none'})")
