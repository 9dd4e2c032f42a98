"""The mean over data sets that share photos: strata by hand, scipy, loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.results.statistics.across import Together
from tests.synthetic_store import confusion_rows, labels, write_cell, write_spec

SETS = {"voc20": range(12), "voc21": range(12), "city": range(100, 110)}
SKILL = {"vanilla": 0.4, "csa": 0.6, "naclip": 0.63}


@pytest.fixture
def df(tmp_path: Path) -> pd.DataFrame:
    for order, (dataset, photos) in enumerate(SETS.items()):
        for number, (label, skill) in enumerate(SKILL.items()):
            rows = [confusion_rows(f"p{k}", *labels(k + order, skill, (24, 32), 5)) for k in photos]
            names = [f"p{k}" for k in photos]
            scale = {"protocol": {"logit_scale": 40.0 + order}}
            created = f"{order}{number}"
            write_spec(tmp_path, label, rows, names, dataset=dataset, config=scale, created=created)
    return results.load(tmp_path)


def test_the_mean_is_the_mean_of_scores(df: pd.DataFrame) -> None:
    table = results.mean_over_datasets(df, n=200)
    assert list(table["attention"]) == list(SKILL)
    miou = results.miou(df, by=["attention", "dataset", "spec"]).droplevel("spec")
    for row in table.to_dict("records"):
        assert row["mean"] == pytest.approx(miou[row["attention"]].mean())
        assert row["voc21"] == miou[row["attention"], "voc21"]
        assert row["low"] < row["mean"] < row["high"]
        assert (row["datasets"], row["photos"]) == (3, 22)
    assert not table["unbeaten"].iloc[0]
    assert table["unbeaten"].iloc[2]


def test_photos_of_two_data_sets_are_drawn_together(df: pd.DataFrame) -> None:
    together = Together(df, n=30)
    assert sorted(np.bincount(together.design.strata)) == [10, 12]
    for weights in together.design.weights():
        for members in together.design.members:
            assert (weights[:, members].sum(1) == len(members)).all()
    apart = Together(df, n=30, apart=["voc21"])
    assert sorted(np.bincount(apart.design.strata)) == [10, 12, 12]
    # VOC20 and VOC21 go up and down together, so their mean is less sure than if they were apart.
    for method in ("resampled", "without"):
        assert getattr(together.means[0], method).std() > 0
    wide = results.mean_over_datasets(df, n=500)
    narrow = results.mean_over_datasets(df, n=500, apart=["voc20"])
    assert (wide["high"] - wide["low"]).mean() > (narrow["high"] - narrow["low"]).mean()


def test_equal_file_names_of_unrelated_sets_are_different_photos(tmp_path: Path) -> None:
    names = [f"{k:04}" for k in range(10)]
    for order, dataset in enumerate(("mine", "yours")):
        for label, skill in SKILL.items():
            write_cell(
                tmp_path,
                label,
                skill,
                names,
                first=20 * order,
                dataset=dataset,
                created=f"{order}{label}",
            )
    df = results.load(tmp_path)
    assert set(results.mean_over_datasets(df, n=20)["photos"]) == {20}
    together = results.mean_over_datasets(df, n=20, shared=[("mine", "yours")])
    assert set(together["photos"]) == {10}
    with pytest.raises(LabError, match="did you mean yours"):
        results.mean_over_datasets(df, n=10, shared=[("mine", "your")])


def test_strata_of_plain_means_are_summed_like_welch(df: pd.DataFrame) -> None:
    """Pixel accuracy of images of one size over two sets without common photos."""
    pair = df[df["dataset"].isin(["voc20", "city"])]
    pair.attrs = df.attrs
    table = results.mean_over_datasets(pair, "pixel_accuracy", n=100)
    accuracy = results.pixel_accuracy(pair, by=["attention", "dataset", "image", "spec"])
    one, two = (accuracy.loc["csa", name].to_numpy() for name in ("voc20", "city"))
    # The mean of two means is half of the difference of one and minus the other: Welch's interval.
    low, high = scipy.stats.ttest_ind(one, -two, equal_var=False).confidence_interval()
    interval = table.set_index("attention").loc["csa", ["low", "high"]].to_numpy(float)
    np.testing.assert_allclose(interval, [low / 2, high / 2], rtol=1e-6)


def test_differences_of_means(df: pd.DataFrame) -> None:
    table = results.mean_differences(df, "vanilla", n=300)
    assert list(table["a"]) == ["csa", "naclip"]
    means = results.mean_over_datasets(df, n=10)["mean"]
    np.testing.assert_allclose(table["difference"], means[1:] - means[0])
    assert (table["low"] > 0).all()
    assert (table["p"] <= table["p_holm"]).all()
    assert (table["p_permutation"] <= 2 / 301).all()


def test_ranks(df: pd.DataFrame) -> None:
    table = results.ranks(df, n=200)
    assert len(table) == 9
    miou = results.miou(df, by=["dataset", "attention", "spec"]).droplevel("spec")
    for row in table.itertuples():
        assert row.score == miou[row.dataset, row.attention]
        assert row.rank == 1 + (miou[row.dataset] > row.score).sum()
        assert row.low <= row.rank <= row.high
    mean = table.groupby("attention", observed=True)["rank"].mean()
    assert (table["mean_rank"] == table["attention"].map(mean).astype(float)).all()


def test_a_variant_that_lacks_a_data_set_is_left_out(df: pd.DataFrame) -> None:
    fewer = df[~((df["attention"] == "csa") & (df["dataset"] == "city"))]
    fewer.attrs = df.attrs
    table = results.mean_over_datasets(fewer, n=50)
    assert list(table["attention"]) == ["vanilla", "naclip"]
    assert table.attrs["left_out"] == ["csa"]


def test_variants_on_other_photos_are_not_compared(tmp_path: Path) -> None:
    """As many photos are not the same photos: means over data sets compare photo by photo."""
    write_cell(tmp_path, "vanilla", 0.4, [f"photo_{k}" for k in range(12)])
    write_cell(tmp_path, "csa", 0.6, [f"photo_{k}" for k in range(12, 24)], first=12)
    df = results.load(tmp_path)
    for call in (results.mean_over_datasets, results.mean_differences, results.ranks):
        with pytest.raises(LabError, match="'shapes' were evaluated on different images"):
            call(df)


def test_ranks_without_counted_pixels_have_no_interval(df: pd.DataFrame) -> None:
    assert results.ranks(df.assign(pixels=0), n=20)[["rank", "low", "high"]].isna().all(axis=None)


def test_wrong_names(df: pd.DataFrame) -> None:
    with pytest.raises(LabError, match="did you mean city"):
        results.mean_over_datasets(df, n=10, apart=["citi"])
    with pytest.raises(LabError, match="names 3 variants"):
        results.mean_differences(df, {"backbone": "tiny"}, n=10)
