"""Oracles: scipy's bootstrap, Student's t, loops over photos."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from analysis import coverage
from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.results.statistics import intervals, uncertainty
from sclip_lab.results.statistics.resampling import Design, Sample, score
from tests.confusion import counted, iou
from tests.confusion import score as score_of
from tests.synthetic_store import SKILL, confusion_rows, labels, write_spec, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path, 12)
    return tmp_path


def _rows(images: list[str], skill: float = 0.5) -> list[pd.DataFrame]:
    return [
        confusion_rows(image, *labels(index, skill, (24, 32), 5))
        for index, image in enumerate(images)
    ]


def _two(folder: Path, count: int = 30) -> pd.DataFrame:
    """Variants a and b on the same images of one size."""
    images = [f"i{index:02}" for index in range(count)]
    for label, skill in [("a", 0.5), ("b", 0.6)]:
        write_spec(folder, label, _rows(images, skill), images, created=label)
    return results.load(folder)


def _stacks(count: int = 30) -> list[np.ndarray]:
    """The same counts: (images, classes, classes) of a and of b."""
    stacks = []
    for skill in (0.5, 0.6):
        pairs = [labels(index, skill, (24, 32), 5) for index in range(count)]
        stacks.append(np.stack([counted(*pair, 5) for pair in pairs]))
    return stacks


def _scored(stack: np.ndarray, statistic: str = "miou", n: int = 4000):
    totals = np.stack([np.diagonal(stack, 0, 1, 2), stack.sum(2), stack.sum(1)], axis=1)
    count = len(stack)
    sample = Sample(totals.astype(float), np.arange(count))
    return score([sample], Design.plain(count, n), statistic)[0]


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("statistic", ["miou", "pixel_accuracy", "mean_accuracy"])
def test_interval_agrees_with_scipy(tmp_path: Path, statistic: str, method: str) -> None:
    df, (stack, other) = _two(tmp_path), _stacks()
    function = partial(score_of, statistic=statistic)

    def scipy_interval(of_drawn):
        return scipy.stats.bootstrap(
            (np.arange(30),), of_drawn, n_resamples=4000, method=method, vectorized=False,
            rng=np.random.default_rng(5),
        ).confidence_interval  # fmt: skip

    first, second = next(uncertainty.resampled(df, statistic, 4000, 0)).values()
    low, high = coverage.METHODS[method](first, 0.95)
    theirs = scipy_interval(lambda indices: function(stack[indices].sum(0)))
    assert first.estimate == pytest.approx(function(stack.sum(0)))
    np.testing.assert_allclose([low, high], theirs, atol=0.08 * (high - low))

    low, high = coverage.METHODS[method](second - first, 0.95)
    theirs = scipy_interval(
        lambda indices: function(other[indices].sum(0)) - function(stack[indices].sum(0))
    )
    np.testing.assert_allclose([low, high], theirs, atol=0.08 * (high - low))


def test_of_a_plain_mean_it_is_students_interval(tmp_path: Path) -> None:
    """Images of one size: pixel accuracy is the mean of theirs, and linear, so without a bias."""
    df = _two(tmp_path)
    one, two = (np.trace(s, axis1=1, axis2=2) / s.sum((1, 2)) for s in _stacks())
    ours = results.bootstrap(df, "pixel_accuracy", n=200).iloc[0]
    theirs = scipy.stats.ttest_1samp(one, 0).confidence_interval(0.95)
    np.testing.assert_allclose(ours[["low", "high"]].to_numpy(), theirs, rtol=1e-10)

    gap = results.difference(df, "b", "a", "pixel_accuracy", n=200, level=0.9).iloc[0]
    test = scipy.stats.ttest_rel(two, one)
    np.testing.assert_allclose(
        gap[["low", "high"]].to_numpy(float), test.confidence_interval(0.9), rtol=1e-10
    )
    assert gap["p"] == pytest.approx(test.pvalue, rel=1e-9)
    assert gap["difference"] == pytest.approx((two - one).mean())


def test_the_standard_error_is_the_jackknife_by_a_loop() -> None:
    stack = _stacks(12)[0]
    without = [score_of(np.delete(stack, k, axis=0).sum(0)) for k in range(12)]
    expected = np.sqrt(11 / 12 * np.square(without - np.mean(without)).sum())
    error, freedom = intervals.standard_error(_scored(stack))
    assert (error, freedom) == pytest.approx((expected, 11))


def test_the_bias_is_that_of_the_bootstrap_with_less_noise() -> None:
    stack = _stacks(12)[0]
    many = _scored(stack, n=100_000)
    plain = many.resampled.mean() - many.centre
    few = [intervals.bias(_scored(stack, n=500)), many.resampled[:500].mean() - many.centre]
    assert intervals.bias(many) == pytest.approx(plain, abs=3 * many.resampled.std() / 300)
    assert abs(few[0] - plain) < abs(few[1] - plain)
    assert plain < 0  # a mean of ratios is too low on few photos


def test_equal_images_have_no_interval_and_chunks_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [f"i{index:02}" for index in range(12)]
    whole_vocabulary = confusion_rows("x", *labels(0, 0.5, (48, 64), 5))
    assert set(whole_vocabulary["true"]) == set(range(5))
    same = [whole_vocabulary.assign(image=image) for image in images]  # no spread, so no bounds
    write_spec(tmp_path, "same", same, images)
    write_spec(tmp_path, "varied", _rows(images), images)
    df = results.load(tmp_path)
    interval = results.bootstrap(df, n=50).loc[df[df["attention"] == "same"]["spec"].iloc[0]]
    assert interval[["low", "high"]].isna().all()
    whole = results.bootstrap(df, n=50)
    monkeypatch.setattr("sclip_lab.results.statistics.resampling._CELLS", 21)
    pd.testing.assert_frame_equal(results.bootstrap(df, n=50), whole, rtol=1e-12)
    assert not results.bootstrap(df, n=50, seed=1).equals(whole)


def test_identical_specs_differ_by_nothing(tmp_path: Path) -> None:
    images = [f"i{index:02}" for index in range(12)]
    for label in ("a", "b"):
        write_spec(tmp_path, label, _rows(images), images)
    gap = results.difference(results.load(tmp_path), "a", "b", n=100).iloc[0]
    assert list(gap[["difference", "p", "p_permutation"]]) == [0, 1, 1]
    assert gap[["low", "high"]].isna().all()


def test_a_difference_that_never_changes_has_the_p_of_swaps(tmp_path: Path) -> None:
    images = [f"i{index:02}" for index in range(10)]
    for label, skill in [("a", 0.3), ("b", 0.9)]:
        [row] = _rows(["x"], skill)
        write_spec(tmp_path, label, [row.assign(image=image) for image in images], images)
    gap = results.difference(results.load(tmp_path), "b", "a", n=2000).iloc[0]
    assert gap["p"] == gap["p_permutation"] == 2 / 2**10
    assert gap[["low", "high"]].isna().all()  # and none that looks sure, such as [+20.0, +20.0]


def test_void_alone_has_neither_score_nor_p(tmp_path: Path) -> None:
    images = ["x", "y", "z"]
    for label in ("a", "b"):
        void = [row.assign(pixels=0) for row in _rows(images)]
        write_spec(tmp_path, label, void, images)
    df = results.load(tmp_path)
    gap = results.difference(df, "a", "b", n=50).iloc[0]
    assert gap[["difference", "low", "high", "p", "p_permutation"]].isna().all()
    assert not results.summary(df, n=50)["unbeaten"].any()


def test_photos_of_void_alone_are_no_photos(tmp_path: Path) -> None:
    """As many photos again in which nothing counts change neither score, interval nor p."""
    images = [f"i{k:02}" for k in range(12)]
    for label, skill in (("a", 0.5), ("b", 0.6)):
        rows = _rows(images, skill)
        voids = [rows[0].iloc[:1].assign(image=f"void{k}", pixels=0) for k in range(12)]
        write_spec(tmp_path / "some", label, rows, images, created=label)
        every = [*images, *(f"void{k}" for k in range(12))]
        write_spec(tmp_path / "more", label, [*rows, *voids], every, created=label)
    some, more = (
        results.difference(results.load(tmp_path / name), "b", "a", n=300).iloc[0]
        for name in ("some", "more")
    )
    columns = ["difference", "low", "high", "p", "p_permutation", "images"]
    pd.testing.assert_series_equal(some[columns], more[columns])
    assert more["images"] == 12


def test_a_difference_that_is_the_same_on_all_photos_keeps_its_p(tmp_path: Path) -> None:
    images = list("abcdefghijkl")
    for label, skill in (("vanilla", 0.3), ("a", 0.9), ("b", 0.9)):
        [row] = _rows(["x"], skill)
        write_spec(tmp_path, label, [row.assign(image=image) for image in images], images)
    table = results.differences(results.load(tmp_path), "vanilla", n=2000)
    assert set(table["p"]) == {2 / 2**12}
    assert set(table["p_holm"]) == {2 * 2 / 2**12}
    np.testing.assert_allclose(table["p_max_t"], table["p_holm"])


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    df = _two(tmp_path, 1)
    table = results.summary(df, n=50)
    assert table["miou"].notna().all()
    assert table[["low", "high"]].isna().all(axis=None)
    assert table["unbeaten"].all()  # nobody is shown to be worse
    assert np.isnan(results.difference(df, "b", "a", n=50)["p"].iloc[0])


def test_pairing_narrows_the_difference_and_p_finds_it(store: Path) -> None:
    df = results.load(store)
    gap = results.difference(df, "csa", "vanilla", n=500).iloc[0]
    assert gap["low"] > 0
    assert gap["p"] < 0.01
    assert gap["p_permutation"] < 0.01
    assert gap["images"] == 12
    swapped = results.difference(df, "vanilla", "csa", n=500).iloc[0]
    assert swapped["low"] == pytest.approx(-gap["high"], abs=1e-12)
    apart = results.bootstrap(df, n=500)
    assert gap["high"] - gap["low"] < (apart["high"] - apart["low"]).iloc[:2].sum()


def test_p_is_below_alpha_where_the_interval_excludes_nothing(tmp_path: Path) -> None:
    df = _two(tmp_path)
    for level in (0.5, 0.9, 0.99, 0.9999):
        gap = results.difference(df, "b", "a", n=200, level=level).iloc[0]
        assert (gap["p"] < 1 - level) == (gap["low"] > 0 or gap["high"] < 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda df: results.difference(df, "cca", "vanilla"), "did you mean csa"),
        (lambda df: results.bootstrap(df, "mIoU"), "did you mean miou"),
        (lambda df: results.bootstrap(df, level=95), "level 95 must be above 0"),
        (lambda df: results.bootstrap(df, n=0), "n 0 must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(store: Path, call, message: str) -> None:
    with pytest.raises(LabError, match=message):
        call(results.load(store))


def test_summary_has_one_row_a_spec(store: Path) -> None:
    df = results.load(store)
    table = results.summary(df, n=200)
    assert list(table["attention"]) == list(SKILL)
    assert (table["low"] <= table["miou"]).all()
    assert (table["miou"] <= table["high"]).all()
    np.testing.assert_array_equal(table["miou"], results.miou(df))
    np.testing.assert_array_equal(table["images"], 12)
    assert "attention.temperature" in table
    interval = results.bootstrap(df, n=200)
    np.testing.assert_array_equal(table[["miou", "low", "high"]], interval)


def test_unbeaten_is_what_holms_p_over_all_pairs_does_not_reject(store: Path) -> None:
    df = results.load(store)
    table = results.summary(df, n=200, level=0.9999).set_index("attention")
    best = table["miou"].idxmax()
    others = [label for label in SKILL if label != best]
    pairs = list(itertools.combinations(SKILL, 2))
    gaps = {pair: results.difference(df, *pair, n=200)["p"].iloc[0] for pair in pairs}
    beaten = set()
    for step, pair in enumerate(sorted(pairs, key=gaps.__getitem__)):
        if gaps[pair] * (len(pairs) - step) >= 0.0001:  # Holm: stop at the first that is kept
            break
        beaten |= set(pair) - {best} if best in pair else set()
    assert set(table.index[~table["unbeaten"].to_numpy(bool)]) == beaten
    assert beaten
    assert len(beaten) < len(others)


def test_a_class_missing_from_a_resample_is_left_out_of_its_mean(tmp_path: Path) -> None:
    # each image holds one class, found but for 1 pixel of 4 taken for the other class
    rows = [
        pd.DataFrame(
            {"image": image, "true": true, "predicted": [true, 1 - true], "pixels": [3, 1]}
        )
        for true, image in enumerate("xy")
    ]
    write_spec(tmp_path, "csa", rows, ["x", "y"], class_names=["a", "b"])
    [group] = uncertainty.resampled(results.load(tmp_path), "miou", 400, 0)
    # either both images, 3 / 5 per class, or one of them twice, 3 / 4 for its only class
    [scored] = group.values()
    assert scored.estimate == pytest.approx(3 / 5)
    assert coverage.percentile(scored) == pytest.approx([3 / 5, 3 / 4])


def test_a_class_that_no_image_holds_is_in_the_estimate_and_not_in_the_centre() -> None:
    stack = _stacks(10)[0]
    stack[:, 4] = 0  # predicted, never true
    scored = _scored(stack, n=50)
    per_class = iou(stack.sum(0))
    assert per_class[4] == 0
    assert scored.estimate == pytest.approx(per_class.mean())
    assert scored.centre == pytest.approx(np.mean([per_class[k] for k in range(4)]), abs=1e-12)
    low, high = intervals.corrected(scored)
    assert low == scored.estimate < high  # extended to hold what lies outside
    assert np.isnan(intervals.interval(scored)).all()  # so it is none of the estimate


@pytest.mark.parametrize("photos", [2, 9, 10])
def test_few_photos_have_neither_interval_nor_p(tmp_path: Path, photos: int) -> None:
    """But the exact p of swapped photos, which holds its level on any number of them."""
    df = _two(tmp_path, photos)
    are_enough = photos >= intervals.FEWEST_PHOTOS
    gap = results.difference(df, "b", "a", n=300).iloc[0]
    assert gap[["low", "high", "p"]].notna().all() == are_enough
    assert gap[["low", "high", "p"]].isna().all() != are_enough
    assert gap["p_permutation"] >= 2 / 2**photos
    adjusted = results.differences(df, "a", n=300).iloc[0]
    assert adjusted[["p_holm", "p_max_t"]].notna().all() == are_enough
    assert adjusted[["p_holm", "p_max_t"]].isna().all() != are_enough
    assert results.summary(df, n=300)[["low", "high"]].notna().all(axis=None) == are_enough
    assert results.bootstrap(df, n=300)[["low", "high"]].notna().all(axis=None) == are_enough
    assert results.ranks(df, n=300)[["low", "high"]].notna().all(axis=None) == are_enough


# ---------------------------------------------------------------- means of one number a photo


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_t"])
@pytest.mark.parametrize("count", [3, 10, 64])
def test_the_interval_of_a_mean_holds_students_and_halls(draw: str, count: int) -> None:
    size = {"standard_t": {"df": 3}}.get(draw, {})
    values = getattr(np.random.default_rng(count), draw)(**size, size=count)
    low, high = intervals.mean_interval(values, 0.9)
    student = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)
    quantile = scipy.stats.t.ppf(0.95, count - 1)
    skew = scipy.stats.skew(values, bias=False)

    def statistic(mean: float) -> float:
        s = (values.mean() - mean) / values.std(ddof=1)
        cubic = s + skew * s**2 / 3 + skew**2 * s**3 / 27 + skew / (6 * count)
        return cubic * np.sqrt(count)

    ends = [scipy.optimize.brentq(lambda m, e=e: statistic(m) - e, -1e4, 1e4)
            for e in (quantile, -quantile)]  # fmt: skip
    assert low == pytest.approx(min(student.low, ends[0]))
    assert high == pytest.approx(max(student.high, ends[1]))
    for at in (low, high):
        assert intervals.mean_p(values, at) == pytest.approx(0.1)
    assert intervals.mean_p(values, values.mean()) > 0.1
    assert intervals.mean_p([np.nan, *values], 0.3) == intervals.mean_p(values, 0.3)


@given(
    values=st.lists(st.floats(0, 1), min_size=3, max_size=12),
    low=st.sampled_from([None, 0.0, -1.0]),
    high=st.sampled_from([None, 1.0]),
)
def test_the_interval_of_a_mean_ends_where_its_range_does(
    values: list[float], low: float | None, high: float | None
) -> None:
    """It is what the unbounded interval and the range have in common, so its coverage is equal."""
    free = intervals.mean_interval(values)
    cut = intervals.mean_interval(values, bounds=(low, high))
    if np.isnan(free).any():
        assert np.isnan(cut).all()
        return
    assert cut == (free[0] if low is None else max(free[0], low),
                   free[1] if high is None else min(free[1], high))  # fmt: skip
    assert cut[0] <= np.mean(values) <= cut[1]


def test_a_mean_of_few_or_equal_numbers() -> None:
    assert np.isnan(intervals.mean_interval([1.0, 2.0])).all()
    assert np.isnan(intervals.mean_p([1.0, 2.0]))
    assert np.isnan(intervals.mean_interval([0.3] * 12)).all()
    assert intervals.mean_p([0.3] * 12) == 2 / 2**12
    assert intervals.mean_p([0.3] * 12, 0.3) == 1
