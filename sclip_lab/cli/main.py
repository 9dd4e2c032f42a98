"""``sclip-lab``: its commands, and how they end."""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from sclip_lab.core import signals
from sclip_lab.core.errors import bug_behind, describe, one_line, traceback_of

# Each command is a module in this folder with ``add_arguments(parser)`` and
# ``run(args) -> exit code``, which raises a LabError on bad input. Only the module of the typed
# command is imported.
COMMANDS = {
    "evaluate": "one variant, or with -m a sweep; takes Hydra overrides",
    "tune": "search parameters on the train split, report on the test",
    "paper": "the paper study by study: evaluate, then write a report",
    "report": "tables and figures of a store as one page and as files",
    "explore": "one photo, several variants: where does every patch look? (a page)",
    "segment": "label one photo and save a picture of it",
    "data": "list, guess, fetch, prepare and verify data sets",
    "networks": "which networks of open_clip and timm load, and why others do not",
    "store": "list cells and sweeps, verify, repair, gc and export a store",
    "learn-projection": "learn W_r for attention=csa_learned from the train split",
    "completion": "tab completion for bash, zsh or fish: see --help",
}
TRACEBACK = "SCLIP_LAB_TRACEBACK"


def script(argv: Sequence[str] | None = None) -> None:
    """Run `main` as a program, whose exit code is the command's.

    Python takes up to two seconds to take torch apart. So the process ends at once when all exit
    handlers have run. The handler that ends it is registered first, and so runs last.
    """
    code: int | None = None

    def leave() -> None:
        if code is None:
            return
        logging.shutdown()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # help, on a full disk or a closed pipe
            os._exit(code or 1)
        os._exit(code)

    atexit.register(leave)
    try:
        code = main(argv)
    except SystemExit as stop:  # of --help and --version, or a word that no command has
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 1 after an error, which is one line on stderr.

    The traceback of a bug, in a user's function or in this package, is printed before that line. A
    signal ends the command with one line, see `sclip_lab.core.signals`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words and words[0] in COMMANDS else None
    if name is None:
        from importlib import metadata  # 20 ms, which a completion need not wait for

        parser = argparse.ArgumentParser(
            prog="sclip-lab",
            description="A laboratory for training-free attention variants of CLIP.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="commands:\n" + "".join(f"  {n:<18}{text}\n" for n, text in COMMANDS.items()),
        )
        version = f"sclip-lab {metadata.version('sclip-lab')}"
        parser.add_argument("--version", action="version", version=version)
        parser.add_argument("command", choices=COMMANDS, metavar="command")
        if not words:
            parser.print_help()
            return 0
        parser.parse_args(words[:1])  # prints help, the version or an error, and exits
    advice = "what was finished is in the store, the same command goes on"
    keeps = name in ("evaluate", "paper", "tune")
    return ended(lambda: _run(str(name), words[1:]), advice if keeps else "")


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command other than ``evaluate``, whose words are Hydra's."""
    description = f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}."
    parser = argparse.ArgumentParser(prog=f"sclip-lab {name}", description=description)
    module(name).add_arguments(parser)
    return parser


def module(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f"sclip_lab.cli.{name.replace('-', '_')}")


def _run(name: str, words: list[str]) -> int:
    if os.environ.get("SCLIP_LAB_PLUGINS"):
        from sclip_lab.config import plugins

        plugins.enter(())
    if name == "evaluate":  # everything behind the word is Hydra's, its --help included
        from sclip_lab.cli import evaluate

        return evaluate.main(words)
    parser = parser_of(name)
    try:
        args = parser.parse_intermixed_args(words)
    except TypeError:  # a command with commands of its own
        args = parser.parse_args(words)
    return int(module(name).run(args))


def ended(task: Callable[[], int], advice: str = "") -> int:
    """Run a command and return its exit code; print an error and return 1.

    ``advice`` says what the user can do after a signal.
    """
    readable_output()
    thresholds = gc.get_threshold()
    # Until networks run there is hardly any garbage, so it is collected seldom.
    gc.set_threshold(100_000, 50, 50)
    try:
        with signals.one_line(advice):
            code = task()
            sys.stdout.flush()  # here, where a full disk and a closed pipe are reported
            return code
    except BrokenPipeError:  # the reader of the output has stopped
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, Python flushes it at the end
        return 128 + signal.SIGPIPE
    except Exception as error:
        report(error)
        return 1
    finally:
        gc.set_threshold(*thresholds)


def report(error: Exception) -> None:
    """Print an error in one line, after the traceback if it is a bug.

    ``SCLIP_LAB_TRACEBACK=1`` and Hydra's ``HYDRA_FULL_ERROR=1`` show the traceback of each error.
    """
    variables = (TRACEBACK, "HYDRA_FULL_ERROR")
    if lines := traceback_of(error, always=any(os.environ.get(v) == "1" for v in variables)):
        print(lines, file=sys.stderr)
    line = describe(error)
    if bug_behind(error) is error:
        line += " (a bug: please report it with the lines above)"
    print(f"error: {line}", file=sys.stderr)


def readable_output() -> None:
    """Print names of files in other encodings as escapes, and warnings in one line. Print no
    traceback for each line of a log that cannot be written because the disk is full."""
    logging.raiseExceptions = os.environ.get(TRACEBACK) == "1"
    warnings.formatwarning = lambda message, *_, **__: f"warning: {one_line(str(message))}\n"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    script()
