"""How a command ends when something goes wrong: with one line on stderr, whatever it was.

Bad input is a `LabError`, which says what would be right. The rest is the machine's (a disk,
memory) or a fault of this package; it ends in one line too, and ``SCLIP_LAB_TRACEBACK=1`` shows the
whole.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sclip_lab.core.errors import LabError, one_line

VARIABLE = "SCLIP_LAB_TRACEBACK"
UNEXPECTED = "unexpected"
_LONGEST = 1500


def told(error: BaseException) -> str:
    """An error in one line: what is wrong, and with which file where the system says so."""
    if isinstance(error, LabError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        names = [error.filename, error.filename2]
        where = " -> ".join(_short(os.fsdecode(n)) for n in names if isinstance(n, str | bytes))
        return f"{where}: {error.strerror}" if where else error.strerror
    if type(error).__module__.startswith("omegaconf"):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"configuration: {_short('; '.join(lines[:2]))}"
    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):
        return told(error.__cause__)  # logging's words for a log that cannot be opened
    if isinstance(error, MemoryError):
        return f"not enough memory{_place(error)}"
    if isinstance(error, UnicodeEncodeError):
        return (
            f"{_short(ascii(error.object))} holds letters that cannot be written ({error.reason})"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ValueError) and _raised_by_hydra(error):  # two flags at once, and the like
        return f"command line: {_short(' '.join(lines))}"
    return f"{UNEXPECTED} {type(error).__name__}{_place(error)}: {_short(' '.join(lines))}"


def in_one_line(task: Callable[[], int], command: str) -> int:
    """What a task returns; any error is printed as one line instead, and gives 1.

    Args:
        task: a command's work; its exit code.
        command: what was typed, named where the error does not say what is wrong.
    """
    try:
        return task()
    except BrokenPipeError:  # whoever read the output has enough of it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, for the interpreter's own end
        return 128 + signal.SIGPIPE
    except Exception as error:
        print(f"error: {_of_command(error, command)}", file=sys.stderr)
        return 1


def asked_for() -> bool:
    """Whether the user wants to see tracebacks."""
    return os.environ.get(VARIABLE) == "1"


def readable_output() -> None:
    """Let names that are no text (a file's of another encoding) be printed as escapes, warnings in
    one line without a place in the code, and a log that cannot be written (a full disk) be cut
    short without a traceback a line."""
    logging.raiseExceptions = asked_for()
    warnings.formatwarning = _one_line
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {one_line(str(message))}\n"


def install_in_hydra() -> None:
    """Have Hydra end in the same way, unless its HYDRA_FULL_ERROR=1 is set."""
    from hydra._internal import utils

    if not hasattr(utils.run_and_report, "usual"):
        utils.run_and_report = _reported(utils.run_and_report)  # type: ignore[assignment]


def _reported(usual: Callable[[Any], Any]) -> Callable[[Any], Any]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    def run_and_report(task: Callable[[], Any]) -> Any:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            return usual(task)
        try:
            return task()
        except (HydraException, OmegaConfBaseException) as error:
            # Their texts are of several lines, and the cause may be the one that names the key.
            texts = [str(error), str(error.__cause__ or "")]
            whole, cause = (" ".join(text.split()) for text in texts)
            text = whole if cause in whole else f"{whole}; {cause}"
            start = "" if text.startswith("error: ") else "error: "
            print(f"{start}{text}", file=sys.stderr)
            sys.exit(1)
        except BrokenPipeError:
            raise
        except Exception as error:
            # Hydra's own files: what it could not write has no name.
            nameless = isinstance(error, OSError) and not error.filename
            where = "the run's folder (hydra.run.dir, hydra.sweep.dir): " if nameless else ""
            print(f"error: {where}{_of_command(error, ' '.join(sys.argv))}", file=sys.stderr)
            sys.exit(1)

    run_and_report.usual = usual  # type: ignore[attr-defined]
    return run_and_report


def _of_command(error: BaseException, command: str) -> str:
    if asked_for():
        traceback.print_exception(error)
    text = told(error)
    if text.startswith(UNEXPECTED):
        return (
            f"{text}. This is a fault of sclip_lab in '{_short(ascii(command)[1:-1])}': please "
            f"report it with the output of {VARIABLE}=1"
        )
    return text


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if f.filename != __file__]
    own = [f for f in mine if "sclip_lab" in f.filename] or mine
    return f" in {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def _raised_by_hydra(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).parts[-3:-1] == ("hydra", "_internal")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:1000]}...{text[-400:]}"
