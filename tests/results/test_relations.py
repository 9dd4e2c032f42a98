"""Rank correlations against scipy, and by resampling in a loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.results.statistics.relations import spearman
from sclip_lab.results.store import spec_files
from tests.synthetic_store import SKILL, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A measure that falls with the variant's skill, one that knows nothing, and a control."""
    keys = write_store(tmp_path)
    draw = np.random.default_rng(0)
    for key, skill in zip(keys, SKILL.values(), strict=True):
        rows = []
        for image in range(4):
            rows += [
                (f"photo_{image}", "inter_class_mass", -1, -1, 1 - skill + draw.normal(0, 0.001)),
                (f"photo_{image}", "diagonal_mass", -1, -1, draw.random()),
                (f"photo_{image}", "inter_class_share", -1, -1, 0.5),
                (f"photo_{image}", "diagonal_mass", 1, -1, 0.3),
                (f"photo_{image}", "diagonal_mass", 1, 2, 0.1 * image),
            ]
        columns = ["image", "measure", "layer", "head", "value"]
        table = spec_files.joined([pd.DataFrame(rows, columns=columns)], spec_files.MEASURES)
        spec_files.write(tmp_path / "specs" / key, spec_files.MEASURES, table)
    return tmp_path


def test_relations(store: Path) -> None:
    df, measured = results.load(store), results.diagnostics(store)
    table = results.relations(df, measured, n=300).set_index("measure")
    assert set(table.index) == {"inter_class_mass", "diagonal_mass"}  # no control
    means = measured.groupby(["measure", "spec"], observed=True)["value"].mean()
    miou = results.miou(df)
    for name, row in table.iterrows():
        expected = scipy.stats.spearmanr(means[name].loc[list(miou.index)], miou).statistic
        assert row["spearman"] == pytest.approx(expected)
        assert row["low"] <= row["spearman"] <= row["high"]
        assert (row["variants"], row["photos"]) == (4, 4)
    assert table.index[0] == "inter_class_mass"
    assert table.loc["inter_class_mass", "better"] == "low"
    assert table.loc["inter_class_mass", "as_expected"] is True
    assert table.loc["diagonal_mass", "as_expected"] is None


def test_rows_of_ranks_equal_scipy() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 4, (5, 9)).astype(float), draw.random((5, 9))
    expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected)
    x[0, 0] = np.nan
    assert np.isnan(spearman(x, y))[0]
    assert np.isnan(spearman(np.ones((1, 3)), np.arange(3.0)[None])).all()


def test_points_and_layers(store: Path) -> None:
    df, measured = results.load(store), results.diagnostics(store)
    table = results.points(df, measured)
    assert len(table) == 4 * 3
    assert table.set_index("measure")["is_control"].groupby("measure").all().sum() == 1
    np.testing.assert_allclose(table["score"], table["spec"].map(results.miou(df)).astype(float))
    heads = results.layer_heads(results.diagnostics(store, layers=True), "csa", "diagonal_mass")
    assert heads.loc[1].to_dict() == pytest.approx({-1: 0.3, 2: 0.15})
    assert heads.loc[0].isna().all()
    with pytest.raises(LabError, match="did you mean csa"):
        results.layer_heads(results.diagnostics(store, layers=True), "cs", "diagonal_mass")


def test_two_variants_have_no_rank(store: Path) -> None:
    df = results.load(store)
    few = df[df["attention"].isin(["vanilla", "csa"])]
    with pytest.raises(LabError, match="three variants"):
        results.relations(few, results.diagnostics(store), n=10)
