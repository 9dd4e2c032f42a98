"""How errors are shown to a user: bad input in one line, a bug with its traceback."""

from __future__ import annotations

import difflib
import os
import re
import traceback
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

_CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: control signs, surrogates, line breaks
_LONGEST = 1500  # letters shown of an error that another library raised


class LabError(ValueError):
    """Bad input. The message names the file, key or value and what would be right.

    The message is one line, whatever signs the names contain.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class CrashError(LabError):
    """A bug: a function, the user's or of this package, raised an error that is no `LabError`.

    The message says where it happened. ``__cause__`` is the error, whose traceback is shown.
    """


def one_line(text: str) -> str:
    """Text with line breaks, control signs and lone surrogates as escapes.

    >>> print(one_line("a\\nb"))
    a\\nb
    """
    if text.isprintable():
        return text
    return "".join(
        ascii(sign)[1:-1] if unicodedata.category(sign) in _CONTROL else sign for sign in text
    )


def printable(name: str) -> str:
    """A name in one line of at most 200 signs; signs that cannot be printed as escapes."""
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name[:200])
    return text if len(name) <= 200 else f"{text[:197]}..."


@contextmanager
def about(name: object) -> Iterator[None]:
    """Put a name, such as a photo's, before the message of a `LabError` that lacks it."""
    try:
        yield
    except LabError as error:
        # As a word, and not as a part of a key (backbone.mean) or of an example (backbone=...).
        if re.search(rf"(?<!\w){re.escape(str(LabError(name)))}(?![=.\w])", str(error)):
            raise
        raise LabError(f"{name}: {error}") from error


def unknown(kind: str, name: str, choices: Iterable[str]) -> LabError:
    """An error for a name that is not in ``choices``, with the nearest names as a suggestion."""
    choices = sorted(choices)
    name = printable(str(name))  # a yaml's key may be a number
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    # A list longer than a screen hides the suggestion.
    listing = ", ".join(choices) if len(choices) <= 80 else f"{len(choices)} names"
    return LabError(f"unknown {kind} '{name}'{hint} (known: {listing or 'none'})")


def describe(error: BaseException) -> str:
    """Any error in one line: what is wrong, and with which file if the system names one."""
    if isinstance(error, LabError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        names = [os.fsdecode(n) for n in (error.filename, error.filename2) if n is not None]
        return ": ".join([*([" -> ".join(map(_short, names))] if names else []), error.strerror])
    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):
        return describe(error.__cause__)  # logging cannot open its file
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, UnicodeEncodeError):
        name = _short(ascii(error.object))
        return f"{name} holds letters that cannot be written ({error.reason})"
    text = _short(" ".join(str(error).split()))
    return f"configuration: {text}" if _of_hydra(error) else f"{type(error).__name__}: {text}"


def bug_behind(error: BaseException) -> BaseException | None:
    """The error whose traceback shows a bug in the user's code or in this package.

    Returns:
        the error; None if the cause is bad input, or the machine: a missing file, a full disk, too
        little memory.
    """
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    if not isinstance(error, LabError):
        return None if _of_machine(error) or _of_hydra(error) else error
    for outer, inner in pairwise(chain):
        if isinstance(outer, CrashError) and not isinstance(inner, LabError):
            return inner
    return None


def traceback_of(error: BaseException, always: bool = False) -> str:
    """The traceback of `bug_behind`, which ends in the line that raised.

    Without a bug it is "", or with ``always`` the traceback of the error itself.
    """
    bug = bug_behind(error) or (error if always else None)
    return "" if bug is None else "".join(traceback.format_exception(bug)).rstrip()


def _of_hydra(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("hydra", "omegaconf", "antlr4")


def _of_machine(error: BaseException) -> bool:
    of_logging = isinstance(error, ValueError) and isinstance(error.__cause__, OSError)
    of_system = isinstance(error, OSError) and error.strerror is not None
    of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return of_logging or of_system or of_memory or isinstance(error, UnicodeEncodeError)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:1000]}...{text[-400:]}"
