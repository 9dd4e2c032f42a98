"""A search chooses on the train split and reports on the test split."""

from __future__ import annotations

import html
import itertools
from pathlib import Path

import pytest

from sclip_lab import results
from sclip_lab.cli.main import main
from sclip_lab.core.errors import LabError
from sclip_lab.data.patchwork import Patchwork

pytest.importorskip("optuna", reason="Optuna is an extra: pip install 'sclip-lab[tune]'")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sclip_lab.run import tune
from sclip_lab.run.tune import Half, parse, search


def test_words_are_ranges_choices_or_fixed() -> None:
    words = ["attention=csa", "a.b=0.1..4", "c=1..6", "d=last 1,last 2", "e=[1,2],[3]", "f=-1..1"]
    space, fixed = parse([*words, "checkpoint=a b.pt"])
    assert fixed == ["attention=csa", "checkpoint=a b.pt"]
    assert space["a.b"] == FloatDistribution(0.1, 4.0, log=True)
    assert space["c"] == IntDistribution(1, 6)
    assert space["d"] == CategoricalDistribution(("last 1", "last 2"))
    assert space["e"] == CategoricalDistribution(("[1,2]", "[3]"))
    assert space["f"] == IntDistribution(-1, 1)
    described = [tune._described(space[key]) for key in ("a.b", "c")]
    assert described == ["0.1 to 4 (log scale)", "1 to 6"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attention=csa"], "nothing to search"),
        (["attention.temperature"], r"KEY=LOW\.\.HIGH"),
        (["attention.temperature=4..0.1"], "lower end"),
        (["attention.temperature=1.2.3..4"], "must be numbers"),
        (["attention=csa", "attention.temprature=0.1..4"], "temprature"),
        (["attention=csa", "dataset.limit=1,2"], "dataset.limit: trials are compared on the same"),
        (["attention=csa", "attention.temperature=1,2", "dataset.split=train"], "the test is on"),
    ],
)
def test_wrong_words_are_named(words: list[str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        search([*words, "dataset.limit=2"], trials=1, train=["dataset.split=train"])


def test_stages_are_nested_and_end_with_all_photos() -> None:
    for photos in (1, 5, 8, 31, 32, 64, 100, 1000):
        strides = tune._strides(photos)
        subsets = [set(range(photos)[::stride]) for stride in strides]
        assert len(subsets[-1]) == photos
        assert all(small < large for small, large in itertools.pairwise(subsets))
    assert tune._strides(64) == [8, 2, 1]


def test_halves_share_no_photo_and_keep_their_photos() -> None:
    small, large = Patchwork(limit=40), Patchwork(limit=80)
    train, test = Half(small, True), Half(small, False)
    assert sorted([*train.names, *test.names]) == small.names
    assert len({train.key, test.key, small.key}) == 3
    assert set(train.names) < set(Half(large, True).names)
    assert train[0].name == train.names[0]


def test_a_search_sees_the_test_split_once(tmp_path: Path) -> None:
    words = ["attention=csa", "attention.temperature=0.1..4", "dataset.limit=12"]
    tuned = search([*words, f"paths.store={tmp_path}"], trials=6, batch=3)
    stored = results.specs(tmp_path)
    on_test = stored[stored["dataset.split"] == "test"]
    assert set(on_test["key"]) == {tuned.best.key, tuned.default.key}
    assert (on_test["done"] == 12).all()
    assert [trial.proposal.number for trial in tuned.trials] == list(range(6))
    states = [trial.state for trial in tuned.trials]
    assert {"finished", "given up"} == set(states)
    assert {trial.photos for trial in tuned.trials if trial.state == "finished"} == {12}
    assert tuned.blocks < tuned.apart
    table = tuned.table()
    assert table["mIoU"].iloc[0] == tuned.winner.score
    value = tuned.winner.values["attention.temperature"]
    assert tuned.best.label == f"csa(temperature={float(value)})"
    again = search([*words, f"paths.store={tmp_path}"], trials=6, batch=3)
    assert again.table().equals(table)  # and nothing was computed a second time
    assert len(results.specs(tmp_path)) == len(stored)


def test_a_data_set_without_a_train_split_is_halved(tmp_path: Path) -> None:
    words = ["attention=csa", "attention.temperature=1,2", "dataset.limit=8"]
    tuned = search([*words, f"paths.store={tmp_path}"], trials=2, train=["dataset.split=training"])
    assert "train half by name digest" in tuned.train.split
    assert "test half by name digest" in tuned.default.dataset.split
    assert "test half" in tune.sentence(tuned)


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "attention=csa",
        "attention.layers=last 1,last 2",
        "dataset.limit=4",
    ]  # one is the default
    assert main(["tune", *words, "--trials", "2", "--out", str(tmp_path)]) == 0
    assert "Of 2 trials on patchwork, train" in capsys.readouterr().out
    page = html.unescape((tmp_path / "index.html").read_text())
    assert "tune attention=csa 'attention.layers=last 1,last 2' dataset.limit=4 --trials 2" in page
    assert "the best (attention.layers last" in page
    assert "without the shared trunk" in page
    assert (tmp_path / "store/specs").is_dir()
    assert main(["tune", "attention=csa"]) == 1
    assert "nothing to search" in capsys.readouterr().err
