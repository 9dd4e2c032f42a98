"""Rank correlations against scipy, and by resampling in a loop."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.results.statistics.relations import families_of, over_families, spearman
from sclip_lab.results.store import spec_files
from tests.synthetic_store import SKILL, confusion_rows, labels, write_cell, write_spec, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A measure that falls with the variant's skill, one that knows nothing, and a control."""
    keys = write_store(tmp_path, 12)
    draw = np.random.default_rng(0)
    for key, skill in zip(keys, SKILL.values(), strict=True):
        rows = []
        for image in range(11):
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
        assert (row["variants"], row["photos"]) == (4, 11)
    assert table.index[0] == "inter_class_mass"
    assert table.loc["inter_class_mass", "better"] == ""  # a blind map can be as low
    few = measured[measured["image"].isin([f"photo_{k}" for k in range(9)])]
    of_few = results.relations(df, few, n=50)[["low", "high", "p", "p_adjusted"]]
    assert of_few.isna().all(axis=None)  # nine photos: a description
    # Three families (csa and csa(temperature=2.0) are one) are a description and no finding.
    assert set(table["families"]) == {3}
    assert all(answer is None for answer in table["as_expected"])


def many_variants(root: Path, count: int, photos: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Variants whose score follows one measure and has nothing to do with 20 others."""
    draw = np.random.default_rng(0)
    images = [f"photo_{k}" for k in range(photos)]
    rows = []
    for number in range(count):
        skill = 0.2 + 0.6 * number / count
        key = write_cell(root, f"v{number}", skill, images, shape=(48, 64))
        noise = draw.normal(0, 1, 20)
        for image in images:
            values = {"inter_class_mass_matched": 1 - skill} | {
                f"m{k}": v for k, v in enumerate(noise)
            }
            rows += [(key[:12], f"v{number}", image, name, value + draw.normal(0, 0.01))
                     for name, value in values.items()]  # fmt: skip
    columns = ["spec", "attention", "image", "measure", "value"]
    return results.load(root), pd.DataFrame(rows, columns=columns)


def test_a_relation_is_sure_over_families_and_measures(tmp_path: Path) -> None:
    df, measured = many_variants(tmp_path, 16)
    table = results.relations(df, measured, n=500).set_index("measure")
    mass = table.loc["inter_class_mass_matched"]
    assert mass["as_expected"] is True
    assert (mass["families"], mass["variants"], mass["photos"]) == (16, 16, 12)
    assert mass["spearman"] == pytest.approx(mass["by_family"])  # each family is one variant
    assert mass["least"] <= mass["spearman"] <= mass["most"]
    others = table.drop("inter_class_mass_matched")
    assert (others["p_adjusted"] >= others["p"]).all()
    assert (others["p_adjusted"] > 0.05).all()
    # The same variants as four families say nothing, whatever their correlation is.
    families = {spec: f"f{k % 4}" for k, spec in enumerate(df["spec"].unique())}
    fewer = results.relations(df, measured, n=500, families=families).set_index("measure")
    assert fewer.loc["inter_class_mass_matched", "as_expected"] is None
    assert fewer.loc["inter_class_mass_matched", "spearman"] == mass["spearman"]
    assert fewer.loc["inter_class_mass_matched", "p"] > mass["p"]


def test_p_over_families_equals_all_permutations() -> None:
    draw = np.random.default_rng(1)
    measure, scores = draw.normal(size=(2, 6))
    family = np.array(["a", "a", "b", "c", "d", "e"])
    rho, p, adjusted = over_families(measure[None], scores, family, n=20_000)
    means = [np.array([v[family == f].mean() for f in "abcde"]) for v in (measure, scores)]
    every = [scipy.stats.spearmanr(means[0], order).statistic
             for order in itertools.permutations(means[1])]  # fmt: skip
    assert rho[0] == pytest.approx(scipy.stats.spearmanr(*means).statistic)
    exact = np.mean(np.abs(every) >= abs(rho[0]) - 1e-9)
    assert p[0] == pytest.approx(exact, abs=0.015)
    assert adjusted[0] == pytest.approx(p[0])  # one measure


def test_families_are_told_by_name_and_by_module(tmp_path: Path) -> None:
    rows = [confusion_rows("x", *labels(0, 0.5, (24, 32), 5))]
    modules = {"csa": "lab.correlative.correlative", "csa_random": "lab.projected.random",
               "clearclip": "lab.correlative.correlative", "vanilla": "lab.vanilla.vanilla",
               "sharpened": "lab.vanilla.vanilla", "csa(temperature=2.0)": "lab.correlative.f",
               "early": "lab.early.early"}  # fmt: skip
    for name, target in modules.items():
        write_spec(tmp_path, name, rows, ["x"], config={"attention": {"_target_": target}})
    df = results.load(tmp_path)
    grouped = families_of(df)
    label = df.drop_duplicates("spec").set_index("spec")["attention"].astype(str)
    members: dict[str, set[str]] = {}
    for spec, name in grouped.items():
        members.setdefault(name, set()).add(label[spec])
    assert sorted(map(sorted, members.values())) == [
        ["clearclip", "csa", "csa(temperature=2.0)", "csa_random"], ["early"],
        ["sharpened", "vanilla"],
    ]  # fmt: skip


def test_weighted_ranks_equal_repeated_entries() -> None:
    draw = np.random.default_rng(2)
    x, y = draw.integers(0, 4, (2, 1, 7)).astype(float)
    weights = np.array([[2, 0, 1, 3, 1, 1, 0]])
    repeated = [np.repeat(z, weights[0], axis=1) for z in (x, y)]
    np.testing.assert_allclose(spearman(x, y, weights.astype(float)), spearman(*repeated))


def test_rows_of_ranks_equal_scipy() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 4, (5, 9)).astype(float), draw.random((5, 9))
    expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman(x, y), expected)
    x[0, 0] = np.nan
    assert np.isnan(spearman(x, y))[0]
    assert np.isnan(spearman(np.ones((1, 3)), np.arange(3.0)[None])).all()


def test_two_variants_have_no_rank(store: Path) -> None:
    df = results.load(store)
    few = df[df["attention"].isin(["vanilla", "csa"])]
    with pytest.raises(LabError, match="three variants"):
        results.relations(few, results.diagnostics(store), n=10)
