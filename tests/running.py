"""Running the Hydra application in this process, as a command line would."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

QUICK = (
    "backbone=patchwork_vit",
    "dataset=patchwork",
    "dataset.limit=2",
    "dataset.height=64",
    "dataset.width=80",
    "tracking=disabled",
    "diagnostics=none",
    "pictures.images=0",
    "progress=false",
    "device=cpu",
)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def break_photo(monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    """The photo with this index raises an error when it is read."""
    from sclip_lab.core.errors import LabError
    from sclip_lab.evaluation import loader

    load = loader.Loader.load

    def loaded(self: loader.Loader, index: int) -> loader.Photo:
        if index == broken:
            raise LabError(f"photo {index} is damaged")
        return load(self, index)

    monkeypatch.setattr(loader.Loader, "load", loaded)


def evaluate(folder: Path, *overrides: str) -> Outcome:
    """``experiments/evaluate.py`` with a store and output folders below ``folder``.

    A sweep (``-m`` among the overrides) writes to <folder>/sweep, a single run to <folder>/run.
    """
    from sclip_lab.cli.main import main
    from sclip_lab.config import folders
    from sclip_lab.core import functions

    places = [f"hydra.run.dir={folder / 'run'}", f"hydra.sweep.dir={folder / 'sweep'}"]
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        store = f"paths.store={folder / 'store'}"
        # Later ones win; -m has to come first.
        flags, rest = (
            [o for o in overrides if o.startswith("-") == flag] for flag in (True, False)
        )
        patch.chdir(folder)
        # What a command line allows or adds is meant for its own process.
        patch.setattr(functions, "_allowed", set(functions._allowed))
        for variable in (functions.VARIABLE, folders.VARIABLE):
            patch.setenv(variable, os.environ.get(variable, ""))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(["evaluate", *flags, *QUICK, store, *places, *rest])
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                GlobalHydra.instance().clear()
                root.handlers[:], root.level = before
    return Outcome(code, out.getvalue(), err.getvalue())


def succeed(folder: Path, *overrides: str) -> Outcome:
    """`evaluate`, which must end well."""
    outcome = evaluate(folder, *overrides)
    assert outcome.code == 0, outcome.err
    return outcome


def fail(folder: Path, *overrides: str) -> Outcome:
    """`evaluate`, which must end with an error and without a traceback."""
    outcome = evaluate(folder, *overrides)
    assert outcome.code == 1
    assert "Traceback" not in outcome.out + outcome.err
    return outcome
