"""Stored values belong to the code that measured them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.core import fingerprint
from sclip_lab.data.folder import Folder
from sclip_lab.diagnostics import MEASURES, code
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
    fingerprint._known.clear()
    code._of.cache_clear()


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], set[str]]:
    """Which measures' codes another text in one module moves."""
    read = fingerprint._text

    def measures(module: str, old: str, new: str) -> set[str]:
        usual = {name: code.of(name) for name in MEASURES}
        path = fingerprint._source(f"{HOME}.{module}")
        assert path is not None
        assert old in read(path)
        monkeypatch.setattr(
            fingerprint,
            "_text",
            lambda p: read(p).replace(old, new) if p == path else read(p),
        )
        _forget()
        found = {name for name in MEASURES if code.of(name) != usual[name]}
        monkeypatch.setattr(fingerprint, "_text", read)
        _forget()
        return found

    return measures


def test_a_line_moves_the_measures_that_it_is_of(moved: Callable[..., set[str]]) -> None:
    of_labels = {n for n in MEASURES if "same_class" in n or n.startswith("inter_class")}
    assert moved("same_class", "\n\n\ndef ", "\n\n\nk = 1\n\n\ndef ") == of_labels
    assert moved("retrieval", "\n\n\ndef ", "\n\n\nk = 1\n\n\ndef ") == {"patch_retrieval_miou"}
    assert moved("layers", "from __future__ import annotations", "k = 1") == set(MEASURES)
    # Of the registry, a row alone, and what rows share.
    row = "features.effective_rank(seen.features)"
    assert moved("registry", row, f"2 * {row}") == {"effective_rank"}
    shared = "lambda seen: function(_classes(seen), seen.flat_labels)"
    localised = {
        n for n in MEASURES if n[:5] in ("point", "relev", "rank_", "local") and "resid" not in n
    }
    assert moved("registry", shared, shared.replace("seen.flat", "seen.seen.flat")) == localised


def test_words_move_nothing(moved: Callable[..., set[str]]) -> None:
    assert not moved("registry", "attention of a patch to itself", "other words")
    assert not moved("same_class", "from __future__", "# why\nfrom __future__")
    assert not moved("measure", "it is defined everywhere", "see there")


def test_no_two_measures_have_one_code() -> None:
    assert len({code.of(name) for name in MEASURES}) == len(MEASURES)
    assert code.of("no such measure") == ""


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

    changed = replace(old, compute=lambda seen: old.compute(seen) / 2)
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
    kept = mixed[mixed["measure"] == "diagonal_mass"]
    assert kept["attention"].tolist() == ["csa"]
    assert kept["value"].tolist() == [after["diagonal_mass"]]
