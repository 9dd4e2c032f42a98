"""Stored values belong to the code that measured them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.core import identity
from sclip_lab.data.folder import Folder
from sclip_lab.diagnostics import MEASURES, Measure, catalogue, code_of, measure
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Diagnostics
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation.protocol import Protocol

HOME = "sclip_lab.diagnostics"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    _forget()


def _forget() -> None:
    identity._known_modules.clear()
    measure._code.cache_clear()


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], set[str]]:
    """Which measures' codes another text in one module moves."""
    read = Path.read_text

    def measures(module: str, old: str, new: str) -> set[str]:
        usual = {name: code_of(name) for name in MEASURES}
        path = identity._source(f"{HOME}.{module}")
        assert path is not None
        assert old in read(path, encoding="utf-8")

        def changed(file: Path, encoding: str | None = None) -> str:
            text = read(file, encoding=encoding)
            return text.replace(old, new) if file == path else text

        monkeypatch.setattr(Path, "read_text", changed)
        _forget()
        moved = {name for name in MEASURES if code_of(name) != usual[name]}
        monkeypatch.setattr(Path, "read_text", read)
        _forget()
        return moved

    return measures


def test_a_line_moves_the_measures_that_it_is_of(moved: Callable[..., set[str]]) -> None:
    of_labels = {n for n in MEASURES if "same_class" in n or n.startswith("inter_class")}
    assert moved("same_class", "\n\n\ndef ", "\n\n\nk = 1\n\n\ndef ") == of_labels
    assert moved("layers", "from __future__ import annotations", "k = 1") == set(MEASURES)


def test_a_function_that_rows_of_the_catalogue_share_moves_those_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = {name: code_of(name) for name in MEASURES}
    monkeypatch.setattr(catalogue, "_cka", lambda layers, tokens: 2 * layers.patches(tokens))
    _forget()
    moved = {name for name in MEASURES if code_of(name) != usual[name]}
    assert moved == {"cka_to_plain", "cka_to_output"}


USERS = """
import torch
from helpers_of_a_test import scaled

def spread(seen):
    return _half(scaled(seen.patches.std(dim=(1, 2, 3))))

def _half(values):
    return values / 2

def other(seen):
    return seen.patches.mean(dim=(1, 2, 3))
"""


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("ideas", "seen.patches.std", "2 * seen.patches.std", {"spread"}),
        ("ideas", "values / 2", "values / 4", {"spread"}),
        ("ideas", "def _half", "# why\ndef _half", set()),
        ("helpers", "FACTOR = 1", "FACTOR = 3", {"spread"}),
    ],
)
def test_a_users_measure_is_known_by_its_code_and_its_helpers(
    file: str,
    old: str,
    new: str,
    changed: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = {name: tmp_path / f"{name}_of_a_test.py" for name in ("ideas", "helpers")}
    paths["ideas"].write_text(USERS)
    paths["helpers"].write_text("FACTOR = 1\n\ndef scaled(x):\n    return FACTOR * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def codes() -> dict[str, str]:
        for name in ("ideas_of_a_test", "helpers_of_a_test"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        module = importlib.import_module("ideas_of_a_test")
        return {n: Measure(getattr(module, n), "").code for n in ("spread", "other")}

    before = codes()
    assert codes() == before
    text = paths[file].read_text()
    assert old in text
    paths[file].write_text(text.replace(old, new))
    after = codes()
    assert {name for name in before if before[name] != after[name]} == changed


def test_words_move_nothing(moved: Callable[..., set[str]]) -> None:
    assert not moved("same_class", "from __future__", "# why\nfrom __future__")
    assert not moved("measure", "it is defined everywhere", "see there")


def test_no_two_measures_have_one_code() -> None:
    assert len({code_of(name) for name in MEASURES}) == len(MEASURES)
    assert code_of("no such measure") == ""


def test_a_changed_measure_is_measured_again(
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(tmp_path / "store")
    first, second = (
        Spec(lab.load_attention(name), backbone, protocol, photos) for name in ("csa", "vanilla")
    )
    observer = Diagnostics(["diagonal_mass", "class_similarity"], images=1)
    evaluate([first, second], store, observers=[observer], progress=False)
    usual = results.diagnostics(store.root)
    before = store.diagnostics(first).set_index("measure")["value"]

    old = MEASURES["diagonal_mass"]
    reworded = replace(old, says="other words")
    monkeypatch.setitem(MEASURES, "diagonal_mass", reworded)
    assert not observer.pending(store, first)

    changed = replace(old, compute=lambda observation: old.compute(observation) / 2)
    monkeypatch.setitem(MEASURES, "diagonal_mass", changed)
    assert observer.pending(store, first) == {"0"}
    assert store.diagnostics(first)["measure"].tolist() == ["class_similarity"]
    # A store that is only read keeps what can be compared with each other.
    assert results.diagnostics(store.root)["value"].tolist() == usual["value"].tolist()

    evaluate([first], store, observers=[observer], progress=False)
    after = store.diagnostics(first).set_index("measure")["value"]
    assert after["diagonal_mass"] == pytest.approx(before["diagonal_mass"] / 2)
    assert after["class_similarity"] == before["class_similarity"]
    with pytest.warns(UserWarning, match=r"before the code .* changed: some values of diagonal"):
        mixed = results.diagnostics(store.root)
    rows = mixed[mixed["measure"] == "diagonal_mass"]
    assert rows["attention"].tolist() == ["csa"]
    assert rows["value"].tolist() == [after["diagonal_mass"]]
