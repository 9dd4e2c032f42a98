"""Every example in a docstring does what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import sclip_lab
from sclip_lab.core import functions

PACKAGE = Path(sclip_lab.__file__).parent
WITH_EXAMPLES = sorted(
    str(path.relative_to(PACKAGE.parent).with_suffix("")).replace("/", ".")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_allowed", set(functions._allowed))  # an example allows more
    module = importlib.import_module(name.removesuffix(".__init__"))
    # An example's functions are a user's, not this package's.
    outcome = doctest.testmod(module, extraglobs={"__name__": "notebook"})
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    assert outcome.attempted or "+SKIP" in source
    assert not outcome.failed


def test_some_modules_have_examples() -> None:
    assert len(WITH_EXAMPLES) > 1
