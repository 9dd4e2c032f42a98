"""Oracles: closed forms, sums by hand, scipy.stats.bootstrap."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.results.store import spec_files
from tests.confusion import counted, iou
from tests.confusion import score as score_of
from tests.synthetic_store import CLASSES, SKILL, confusion_rows, labels, write_spec, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path)
    return tmp_path


def test_load_is_tidy(store: Path) -> None:
    df = results.load(store)
    fixed = ["spec", "attention", "backbone", "dataset", "protocol", "image", "true", "predicted"]
    assert list(df) == [*fixed, "pixels", "attention.temperature"]
    assert list(df["attention"].unique()) == list(SKILL)
    assert all(isinstance(df[name].dtype, pd.CategoricalDtype) for name in fixed[:6])
    assert [str(df[name].dtype) for name in fixed[6:]] == ["int16", "int16"]
    assert df["pixels"].dtype == np.int64
    assert df["spec"].str.len().eq(12).all()
    assert df.attrs["class_names"] == {"shapes": CLASSES}
    temperatures = df.groupby("attention", observed=True, sort=False)[
        "attention.temperature"
    ].first()
    np.testing.assert_array_equal(temperatures, [np.nan, 1.0, 2.0, np.nan])
    pixels = df.groupby(["spec", "image"], observed=True)["pixels"].sum()
    assert set(pixels) == {45 * 64}


def test_scores_equal_the_summed_confusion_matrix(store: Path) -> None:
    df = results.load(store)
    scores, accuracy, per_class = results.miou(df), results.pixel_accuracy(df), results.iou(df)
    for (label, skill), score, right in zip(SKILL.items(), scores, accuracy, strict=True):
        matrix = np.zeros((5, 5), np.int64)
        for index in range(6):
            prediction, mask = labels(index, skill, (48, 64), 5)
            matrix += counted(prediction, mask, 5)
        assert score == score_of(matrix)
        assert right == score_of(matrix, "pixel_accuracy")
        of_label = per_class[per_class["attention"] == label]
        assert list(of_label["class"]) == CLASSES
        np.testing.assert_array_equal(of_label["iou"], iou(matrix))


def test_groups_of_single_images(store: Path) -> None:
    df = results.load(store)
    scores = results.miou(df, by=["attention", "image"])
    for index in range(6):
        prediction, mask = labels(index, SKILL["csa"], (48, 64), 5)
        expected = score_of(counted(prediction, mask, 5))
        assert scores["csa", f"photo_{index}"] == expected
    with pytest.raises(LabError, match="several specs"):
        results.miou(df, by="image")
    with pytest.raises(LabError, match="did you mean attention"):
        results.miou(df, by="atention")


def _rows(images: list[str], skill: float = 0.5) -> list[pd.DataFrame]:
    return [
        confusion_rows(image, *labels(index, skill, (24, 32), 5))
        for index, image in enumerate(images)
    ]


def test_order_of_files_and_repeated_images_do_not_matter(tmp_path: Path) -> None:
    images = ["b", "a", "d", "c"]
    rows = _rows(images)
    write_spec(tmp_path / "once", "csa", rows, images, chunk=1)
    write_spec(tmp_path / "resumed", "csa", [rows[i] for i in (2, 0, 2, 1, 3, 0)], images, chunk=2)
    expected = results.load(tmp_path / "once")
    pd.testing.assert_frame_equal(results.load(tmp_path / "resumed"), expected)
    assert list(expected["image"].unique()) == images


def test_specs_come_in_order_of_creation_then_key(tmp_path: Path) -> None:
    rows = _rows(["x"])
    for label, created in [("late", "2026-02"), ("tie_b", "2026-01"), ("tie_a", "2026-01")]:
        write_spec(tmp_path, label, rows, ["x"], created=created)
    order = list(results.load(tmp_path)["spec"].unique())
    table = results.specs(tmp_path)
    assert list(table["attention"])[2] == "late"
    assert list(table["key"])[:2] == sorted(table["key"][:2])
    assert order == list(table["spec"])


def test_unfinished_specs_are_left_out_unless_wanted(store: Path) -> None:
    images = ["p", "q", "r"]
    key = write_spec(store, "half", _rows(images)[:2], images, created="2027")
    with pytest.warns(UserWarning, match=rf"unfinished: half \({key[:12]}\)"):
        df = results.load(store)
    assert "half" not in set(df["attention"])
    df = results.load(store, partial=True)
    assert set(df[df["attention"] == "half"]["image"]) == {"p", "q"}
    table = results.specs(store).set_index("attention")
    assert list(table.loc["half", ["images", "done"]]) == [3, 2]
    with (
        pytest.warns(UserWarning, match="half"),
        pytest.raises(LabError, match="no finished results"),
    ):
        results.load(store, [key])


def test_an_image_without_labelled_pixels_counts_as_done(tmp_path: Path) -> None:
    empty = pd.DataFrame({"image": ["y"], "true": [0], "predicted": [0], "pixels": [0]})
    write_spec(tmp_path, "csa", [*_rows(["x"]), empty], ["x", "y"])
    df = results.load(tmp_path)
    assert results.summary(df)["images"].item() == 2
    assert results.miou(df).item() == results.miou(df[df["image"] == "x"]).item()


def test_keys_choose_specs(store: Path) -> None:
    keys = results.specs(store)["key"]
    df = results.load(store, [keys[2], keys[0][:10]])
    assert list(df["attention"].unique()) == ["csa(temperature=2.0)", "vanilla"]  # as typed
    with pytest.raises(LabError, match="unknown spec key 'zzz'"):
        results.load(store, ["zzz"])


def test_columns_only_for_what_differs(tmp_path: Path) -> None:
    rows = _rows(["x"])
    write_spec(tmp_path, "a", rows, ["x"], config={"attention": {"layers": [-1], "n": 1}})
    write_spec(tmp_path, "b", rows, ["x"], config={"attention": {"layers": [-2, -1], "n": 1}})
    df = results.load(tmp_path)
    assert [name for name in df if "." in name] == ["attention.layers"]
    assert set(df["attention.layers"]) == {"[-1]", "[-2, -1]"}
    whole = results.specs(tmp_path)
    assert list(whole["attention.n"]) == [1, 1]
    assert set(whole["protocol.logit_scale"]) == {40.0}


def test_broken_stores_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no results in"):
        results.load(tmp_path)
    key = write_spec(tmp_path, "csa", _rows(["x", "y"]), ["x", "y"], chunk=1)
    folder = tmp_path / "specs" / key
    rows = sorted(folder.glob("rows-*.parquet"))[0]
    rows.write_bytes(b"PAR1 cut off")
    with pytest.raises(LabError, match=rf"{rows.name} has no seal"):
        results.load(tmp_path, [key])
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(LabError, match=rf"{rows.name} has no seal"),
    ):
        results.load(tmp_path)
    (folder / "spec.json").write_text(json.dumps({"key": key}))
    with pytest.raises(LabError, match=r"spec\.json has no seal"):
        results.load(tmp_path)


def test_one_data_set_name_with_two_vocabularies_is_refused(tmp_path: Path) -> None:
    write_spec(tmp_path, "a", _rows(["x"]), ["x"])
    write_spec(tmp_path, "b", _rows(["x"]), ["x"], class_names=[*CLASSES, "sea"], created="2027")
    with pytest.raises(LabError, match=r"'shapes' has 5 classes .* 6"):
        results.load(tmp_path)
    assert len(results.load(tmp_path, [results.specs(tmp_path)["key"][0]]))


def test_each_spec_has_its_own_class_names(tmp_path: Path) -> None:
    """Two folders of one name may list the same number of classes in another order."""
    write_spec(tmp_path, "a", _rows(["x"]), ["x"])
    write_spec(tmp_path, "b", _rows(["x"]), ["x"], class_names=CLASSES[::-1], created="2027")
    table = results.iou(results.load(tmp_path))
    for label, names in (("a", CLASSES), ("b", CLASSES[::-1])):
        assert list(table.loc[table["attention"] == label, "class"]) == names


def test_names_go_by_the_beginning_of_a_key_too(store: Path) -> None:
    key = results.specs(store)["key"][0]
    df = results.load(store, names={key[:12]: {"attention": "mine"}})
    assert df["attention"].iloc[0] == "mine"
    for names, says in (
        ({key: {"atention": "mine"}}, "unknown column 'atention'; did you mean attention"),
        ({key: "mine"}, "names: .* must be a mapping to a mapping"),
    ):
        with pytest.raises(LabError, match=says):
            results.load(store, names=names)


@pytest.mark.parametrize(
    "options", [{"n": "9"}, {"n": 2.5}, {"n": 0}, {"level": None}, {"level": 95}, {"seed": -1}]
)
def test_options_of_statistics_are_checked(store: Path, options: dict[str, object]) -> None:
    [name] = options
    df = results.load(store)
    for call in (results.bootstrap, results.summary, results.differences, results.ranks):
        with pytest.raises(LabError, match=rf"^{name}\b.*must be"):
            call(df, **options)
    assert len(results.bootstrap(df, n=np.int64(9), seed=np.int64(1)))


def test_diagnostics_are_tidy_too(store: Path) -> None:
    assert results.diagnostics(store).empty
    key = results.specs(store)["key"][1]
    values = pd.DataFrame(
        {"image": ["photo_1", "photo_0"], "measure": "entropy", "value": [0.5, 0.25]}
    )
    for rows in (values, values[:1]):  # two writers measured the first photo
        row = spec_files.joined([rows], spec_files.MEASURES)
        spec_files.write(store / "specs" / key, spec_files.MEASURES, row)
    df = results.diagnostics(store)
    assert list(df) == ["spec", "attention", "backbone", "dataset", "protocol", *values]
    assert list(df["attention"]) == ["csa", "csa"]
    assert list(df["image"]) == ["photo_0", "photo_1"]
    assert list(df["value"]) == [0.25, 0.5]


def test_tables_that_would_give_a_wrong_score_are_refused(store: Path) -> None:
    df = results.load(store)
    lost = df["pixels"].where(df.index != 5)
    for table, says in (
        (pd.concat([df, df[df["image"] == df["image"].iloc[0]]]), "are there twice"),
        (df.assign(pixels=lost), "pixels holds a value that is no count"),
        (df.assign(pixels=-df["pixels"]), "pixels holds a value that is no count"),
        (df.drop(columns="pixels"), "with its columns spec, image"),
        (df[:0], "has no row"),
        ([1, 2], "expected the table of results.load"),
        (df.rename(columns={"attention": "variant"}), "none, or several, of attention"),
        (pd.concat([df, df[["pixels"]]], axis=1), "none, or several, of pixels"),
        (df.assign(pixels=df["pixels"].astype(str)), "pixels holds a value that is no count"),
        (df.assign(pixels=df["pixels"] + 0.5), "pixels holds a value that is no count"),
        (df.assign(pixels=np.inf), "pixels holds a value that is no count"),
        (df.assign(true=df["true"] - 1), "true holds a value that is no class id"),
        (df.assign(true=df["true"] + 0.5), "true holds a value that is no class id"),
        (df.assign(predicted=len(CLASSES)), "predicted holds a value that is no class id"),
        (df.assign(image=df["image"].where(df.index != 5)), "image holds numbers or empty cells"),
        (df.assign(spec=df["spec"].cat.codes), "spec holds numbers or empty cells"),
    ):
        for call in (results.summary, results.miou, results.iou, results.bootstrap,
                     results.mean_over_datasets, results.ranks, results.support, results.floors,
                     results.differences):  # fmt: skip
            with pytest.raises(LabError, match=says):
                call(table)


def test_a_table_without_its_attributes_is_doubtful(store: Path) -> None:
    df = results.load(store)
    df.attrs = {}
    with pytest.warns(UserWarning, match=r"has lost df.attrs .*splits and oracles"):
        results.differences(df, "csa")
    with pytest.warns(UserWarning, match="has lost df.attrs") as caught:
        results.summary(df)
    assert len(caught) == 1


def test_one_key_may_be_a_text(store: Path) -> None:
    df = results.load(store)
    key = df["spec"].iloc[0]
    assert list(results.load(store, key)["spec"].unique()) == [key]
    assert [record["key"][: len(key)] for record in results.records(store, key)] == [key]
    assert results.diagnostics(store, key).empty
