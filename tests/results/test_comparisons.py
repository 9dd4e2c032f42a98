"""Who is compared with whom, families of p-values, and what scores rest on."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from sclip_lab import results
from sclip_lab.cli.main import main
from sclip_lab.core.errors import LabError
from sclip_lab.results.statistics import multiple
from sclip_lab.results.statistics.intervals import p_value
from sclip_lab.results.statistics.permutation import permutation_p
from sclip_lab.results.statistics.resampling import Design, Sample, score
from sclip_lab.run.job import table
from tests.synthetic_store import labels, write_cell, write_store

IMAGES = [f"i{index:02}" for index in range(12)]


def write(folder: Path, label: str, skill: float, seed: int = 0, **more: object) -> str:
    created = f"{len(list(folder.glob('specs/*'))):03}"
    return write_cell(folder, label, skill, IMAGES, seed=seed, created=created, **more)


@pytest.fixture
def grid(tmp_path: Path) -> pd.DataFrame:
    """Vanilla and CSA, under two protocols and with two readouts of the second."""
    readouts = [None, {"_target_": "lab.cosine"}, {"_target_": "lab.maskclip", "keep": 0.5}]
    for k, (protocol, readout) in enumerate(
        zip(("sclip", "naclip", "naclip"), readouts, strict=True)
    ):
        for label, skill in (("vanilla", 0.4), ("csa", 0.6)):
            names = {"protocol": protocol}
            config = {
                "protocol": {"readout": readout},
                "attention": {"_target_": f"lab.{label}", "temperature": 1.0},
            }
            write(tmp_path, label, skill + k / 10, seed=k, names=names, config=config)
    return results.load(tmp_path)


def test_cells_of_two_machines_are_compared_with_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for label, kind in (("vanilla", "AVX2"), ("csa", "AVX2"), ("naclip", "AVX512"), ("old", "")):
        environment = {"processor": f"x86_64 {kind}"} if kind else {}
        write(tmp_path, label, 0.5, seed=len(label), provenance=environment)
    df = results.load(tmp_path)
    results.difference(df, "csa", "vanilla", n=20)
    results.difference(df, "csa", "old", n=20)  # it does not say
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"sets: x86_64 AVX2 \(\w+\); x86_64 AVX512 \(\w+\); "):
        results.difference(df, "naclip", "csa", n=20)
    with pytest.warns(UserWarning, match="different instruction sets"):
        results.differences(df, "vanilla", n=20)
    assert "beware: cells were computed with different instruction sets" in table(df)
    out = tmp_path / "report"
    with pytest.warns(UserWarning, match="different instruction sets"):
        assert main(["report", str(tmp_path), "--out", str(out)]) == 0
    assert "Beware: cells were computed with different" in (out / "index.html").read_text()


def test_labels_pair_up_over_data_sets(tmp_path: Path) -> None:
    write_store(tmp_path)
    images = ["x", "y", "z"]
    for label, skill in [("csa", 0.8), ("vanilla", 0.3)]:
        write_cell(tmp_path, label, skill, images, dataset="others")
    df = results.load(tmp_path)
    table = results.difference(df, "csa", "vanilla", n=50)
    assert set(table["dataset"]) == {"shapes", "others"}
    assert dict(zip(table["dataset"], table["images"], strict=True)) == {"shapes": 6, "others": 3}
    first = df[(df["attention"] == "csa") & (df["dataset"] == "others")]["spec"].iloc[0]
    with pytest.raises(LabError, match="same photos"):
        results.difference(df, first, "identity")


def test_a_label_is_compared_where_all_else_is_equal(grid: pd.DataFrame) -> None:
    table = results.differences(grid, "vanilla", n=100)
    assert list(zip(table["a"], table["b"], table["protocol"], strict=True)) == [
        ("csa", "vanilla", "sclip"),
        ("csa", "vanilla", "naclip"),
        ("csa", "vanilla", "naclip"),
    ]
    assert (table["difference"] > 0).all()
    assert table.attrs["left_out"] == []
    one = results.difference(grid, table["spec_a"][1], table["spec_b"][1], n=100).iloc[0]
    assert one["difference"] == table["difference"][1]
    assert one["p"] == table["p"][1]


def test_a_protocol_is_a_baseline(grid: pd.DataFrame) -> None:
    table = results.differences(grid, {"protocol": "sclip"}, n=100)
    assert len(table) == 4
    assert set(table["protocol"]) == {"naclip, sclip"}
    assert list(table["a"]) == ["vanilla · naclip", "csa · naclip"] * 2
    miou = results.miou(grid)
    for row in table.itertuples():
        assert row.difference == pytest.approx(miou[row.spec_a] - miou[row.spec_b])
    cosine = {"attention": "csa", "protocol.readout._target_": "cosine"}
    [row] = results.difference(
        grid, cosine, {"attention": "vanilla", "protocol": "sclip"}, n=50
    ).to_dict("records")
    assert (row["a"], row["b"]) == ("csa · naclip", "vanilla · sclip")
    with pytest.raises(LabError, match="names several specs"):
        results.difference(grid, {"protocol": "naclip"}, "vanilla", n=50)


def test_a_readout_is_a_baseline(grid: pd.DataFrame) -> None:
    choice = {"protocol.readout._target_": "cosine"}
    table = results.differences(grid, choice, n=100)
    # the first protocol has no readout of its own, and is else equal: it takes part
    assert list(table["a"]) == [
        "vanilla · sclip", "csa · sclip", "vanilla · maskclip", "csa · maskclip"
    ]  # fmt: skip
    assert list(table["b"])[2:] == ["vanilla · cosine", "csa · cosine"]
    assert len(table.attrs["left_out"]) == 0


def test_a_parameter_is_a_baseline(tmp_path: Path) -> None:
    for temperature, skill in ((0.5, 0.3), (1.0, 0.6), (2.0, 0.5)):
        label = "csa" if temperature == 1 else f"csa(temperature={temperature})"
        config = {"attention": {"temperature": temperature}}
        write(tmp_path, label, skill, config=config)
    table = results.differences(results.load(tmp_path), {"attention.temperature": 1}, n=100)
    assert list(table["a"]) == ["csa(temperature=0.5)", "csa(temperature=2.0)"]
    assert set(table["b"]) == {"csa"}


def test_names_tell_parameters_of_one_label_apart(tmp_path: Path) -> None:
    for scale in (20.0, 40.0):
        config = {"protocol": {"logit_scale": scale}}
        write(tmp_path, "csa", scale / 80, seed=int(scale), config=config)
    [row] = results.all_pairs(results.load(tmp_path), n=100).to_dict("records")
    assert (row["a"], row["b"]) == ("csa · logit_scale 40", "csa · logit_scale 20")


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("vanila", "did you mean vanilla"),
        ({"protocols": "sclip"}, "unknown column 'protocols'; did you mean protocol"),
        ({"protocol": "scip"}, "unknown protocol 'scip'; did you mean sclip"),
        ({}, "{} names no spec; give a label"),
        (["vanilla"], r"\['vanilla'\] names no spec; give a label"),
        ({"protocol": "naclip"}, "is 2 specs"),
        ({"dataset": "shapes"}, "nothing to compare"),
    ],
    ids=str,
)
def test_bad_baselines(grid: pd.DataFrame, baseline, message: str) -> None:
    with pytest.raises(LabError, match=message):
        results.differences(grid, baseline, n=10)


def test_all_pairs_put_the_better_first(grid: pd.DataFrame) -> None:
    table = results.all_pairs(grid, n=100)
    assert len(table) == 15
    assert (table["difference"] >= 0).all()
    expected = scipy.stats.false_discovery_control(table["p"])
    np.testing.assert_allclose(table["p_bh"], expected)


def closed_testing(p: np.ndarray) -> np.ndarray:
    """Holm's p by its definition: the largest Bonferroni p over all sets that hold a question."""
    adjusted = np.zeros(len(p))
    for size in range(1, len(p) + 1):
        for chosen in itertools.combinations(range(len(p)), size):
            whole = min(1.0, size * min(p[k] for k in chosen))
            for k in chosen:
                adjusted[k] = max(adjusted[k], whole)
    return adjusted


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_closed_testing_by_bonferroni(values: list[float]) -> None:
    np.testing.assert_allclose(multiple.holm(values), closed_testing(np.array(values)))


def test_adjustments_leave_out_what_is_not_asked() -> None:
    p = np.array([0.01, np.nan, 0.04])
    np.testing.assert_allclose(multiple.holm(p), [0.02, np.nan, 0.04])
    np.testing.assert_allclose(multiple.benjamini_hochberg(p), [0.02, np.nan, 0.04])
    assert np.isnan(multiple.benjamini_hochberg([np.nan])).all()


def counts(seed: int, photos: int, skill: float, classes: int = 4) -> Sample:
    """Random right, true and predicted pixels."""
    draw = np.random.default_rng(seed)
    true = draw.integers(1, 50, (photos, classes))
    right = np.random.default_rng([seed, int(skill * 100)]).binomial(true, skill)
    wrong = np.roll(true - right, 1, axis=1)
    totals = np.stack([right, true, right + wrong], axis=1)
    return Sample(totals.astype(float), np.arange(photos))


def test_max_t_of_one_is_students_and_copies_cost_nothing() -> None:
    design = Design.plain(20, n=20_000)
    samples = [counts(0, 20, skill) for skill in (0.5, 0.53, 0.51)]
    base, better, near = score(samples, design)
    gap, other = better - base, near - base
    [alone] = multiple.max_t([gap])
    assert alone == pytest.approx(p_value(gap), abs=0.01)
    np.testing.assert_allclose(multiple.max_t([gap] * 5), alone)
    family = multiple.max_t([gap, other])
    single = np.array([p_value(gap), p_value(other)])
    assert (family >= single - 0.01).all()
    assert (family <= multiple.holm(single) + 0.01).all()
    assert np.isnan(multiple.max_t([_nothing(design)])).all()


def _nothing(design: Design):
    empty = Sample(np.zeros((20, 3, 4)), np.arange(20))
    one, two = score([empty, empty], design)
    return one - two


@pytest.mark.parametrize("photos", [8, 40])
def test_permutation_agrees_with_scipy(photos: int) -> None:
    a, b = counts(1, photos, 0.5), counts(1, photos, 0.53)

    def statistic(first: np.ndarray, second: np.ndarray) -> float:
        # scipy swaps indices of photos: those below ``photos`` are a's
        both = np.concatenate([a.totals, b.totals])
        score_of = []
        for side in (first, second):
            right, true, predicted = both[side.astype(int)].sum(0)
            score_of.append((right / (true + predicted - right)).mean())
        return score_of[0] - score_of[1]

    theirs = scipy.stats.permutation_test(
        (np.arange(photos), np.arange(photos) + photos), statistic, permutation_type="samples",
        vectorized=False, n_resamples=2000, rng=np.random.default_rng(0),
    )  # fmt: skip
    ours = permutation_p([(a, b)], photos, n=2000)
    assert ours == pytest.approx(theirs.pvalue, abs=1e-12 if photos == 8 else 0.03)
    assert 0.001 < ours < 0.9


def test_support_counts_photos_and_flags_rare_classes(tmp_path: Path) -> None:
    write(tmp_path, "csa", 0.5)
    df = results.load(tmp_path)
    table = results.support(df, few=8)
    masks = [labels(k, 0.5, (24, 32), 5)[1] for k in range(len(IMAGES))]
    for row in table.itertuples():
        assert row.photos == sum((mask == row.id).any() for mask in masks)
        assert row.pixels == sum((mask == row.id).sum() for mask in masks)
        assert row.few == (row.photos < 8)
    assert list(table) == ["dataset", "id", "class", "photos", "pixels", "few"]
    assert results.summary(df, n=10)["few_classes"].iloc[0] == 5
