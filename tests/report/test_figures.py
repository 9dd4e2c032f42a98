"""Figures are checked by their artists: positions, texts, colours; not by pixels."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.report import curves, diagnostic_charts, figures, page, pictures
from sclip_lab.results.statistics.intervals import mean_interval
from sclip_lab.results.store import picture_files
from tests.confusion import counted, score
from tests.synthetic_store import (
    CLASSES,
    SKILL,
    confusion_rows,
    labels,
    write_cell,
    write_pictures,
    write_spec,
    write_store,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_pictures(root, write_store(root, 12))
    return root


@pytest.fixture(scope="module")
def df(store: Path) -> pd.DataFrame:
    return results.load(store)


@pytest.fixture(scope="module")
def photos(store: Path) -> list[picture_files.Picture]:
    return picture_files.load(store)


def _texts(figure: Figure) -> list[str]:
    FigureCanvasAgg(figure).draw()
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def _inside(figure: Figure) -> None:
    """Nothing that is drawn sticks out of the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01


# ---------------------------------------------------------------- charts


@pytest.mark.parametrize("sort", [False, True])
def test_bars_show_scores_and_intervals(df: pd.DataFrame, sort: bool) -> None:
    table = results.summary(df)
    table = table.sort_values("miou", ascending=False) if sort else table
    figure = figures.bars(df, sort=sort)
    (ax,) = figure.axes
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], table["miou"] * 100)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(table["attention"])
    segments = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([s[0][0] for s in segments], table["low"] * 100)
    np.testing.assert_allclose([s[1][0] for s in segments], table["high"] * 100)
    assert [text.get_text() for text in ax.texts] == [f"{v * 100:.1f}" for v in table["miou"]]
    _inside(figure)


def test_bars_name_the_level_of_their_table(df: pd.DataFrame) -> None:
    figure = figures.bars(df, table=results.summary(df, n=50, level=0.9))
    assert "90 % interval" in figure.axes[0].get_xlabel()
    assert "90 % interval" in figure.get_label()


def test_bars_have_one_chart_per_data_set(tmp_path: Path) -> None:
    write_store(tmp_path)
    write_cell(tmp_path, "csa", 0.5, ["x"], dataset="others", created="2027")
    figure = figures.bars(results.load(tmp_path))
    assert [ax.get_title() for ax in figure.axes] == ["shapes, 6 photos", "others, 1 photos"]


def test_per_class_is_a_grid_of_variants_and_classes(df: pd.DataFrame) -> None:
    figure = figures.per_class(df)
    ax, _ = figure.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(SKILL)
    photos = results.support(df)["photos"]
    expected = [f"{name} ({n})" for name, n in zip(CLASSES, photos, strict=True)]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == expected
    expected = results.iou(df).pivot(index="spec", columns="id", values="iou")
    expected = expected.loc[df["spec"].unique()].to_numpy() * 100
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(4, 5), expected)
    assert f"{expected[1, 2]:.0f}" in [text.get_text() for text in ax.texts]
    _inside(figure)


def test_per_class_breaks_long_lists_and_leaves_out_absent_classes(tmp_path: Path) -> None:
    ids = np.arange(95).astype(np.uint8).reshape(5, 19)
    rows = [confusion_rows("x", ids, np.where(ids < 90, ids, 0).astype(np.uint8))]
    names = [f"class {index}" for index in range(95)]
    write_spec(tmp_path, "csa", rows, ["x"], class_names=names)
    *strips, _ = figures.per_class(results.load(tmp_path)).axes
    shown = [tick.get_text() for ax in strips for tick in ax.get_xticklabels()]
    assert shown == [f"{name} (1)" for name in names[:90]]
    colors = {tick.get_color() for ax in strips for tick in ax.get_xticklabels()}
    assert colors == {"0.5"}  # one photo is few
    assert len(strips) == 3


def test_curve_joins_what_differs_in_one_parameter(df: pd.DataFrame) -> None:
    assert curves.swept(df) == ["attention.temperature"]
    figure = curves.curve(df, log=True)
    (ax,) = figure.axes
    (line,) = ax.lines
    table = results.summary(df).iloc[1:3]
    np.testing.assert_allclose(line.get_xydata(), np.stack([[1, 2], table["miou"] * 100], axis=1))
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == pytest.approx(
        (table["low"].min() * 100, table["high"].max() * 100)
    )
    assert line.get_label() == "csa"
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "temperature"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2"]
    _inside(figure)


def test_curve_reads_fractions_of_depth(tmp_path: Path) -> None:
    for source in ("9/12", "3/12", "6/12"):
        config = {"attention": {"source": source}}
        write_cell(tmp_path, f"early(source={source})", 0.5, ["x"], config=config)
    (ax,) = curves.curve(results.load(tmp_path), "attention.source").axes
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.25, 0.5, 0.75])
    assert ax.get_ylabel() == "mIoU x100"  # one photo has no interval
    assert {tick.get_text() for tick in ax.get_xticklabels()} == {"3/12", "6/12", "9/12"}


def test_a_curve_over_layers_has_the_last_block_however_it_was_typed(tmp_path: Path) -> None:
    for seed, layers in enumerate(([-1], "last 2", [-3, -2, -1], [0, 1])):
        config = {"attention": {"layers": layers}}
        write_cell(tmp_path, "csa", 0.5, ["x"], config=config, seed=seed)
    (ax,) = curves.curve(results.load(tmp_path), "attention.layers").axes
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1, 2, 3])
    assert {tick.get_text() for tick in ax.get_xticklabels()} == {"last 1", "last 2", "last 3"}


def test_bars_show_floors_above_the_scores_and_claim_no_interval_on_few_photos(
    tmp_path: Path,
) -> None:
    for label in ("csa(prior=gaussian[sigma=2.0], layers=last 4)", "vanilla"):
        write_cell(tmp_path, label, 0.1, list("abc"))
    table = results.summary(results.load(tmp_path))
    names = ("best constant class", "most frequent class per photo", "random patches")
    table.attrs["floors"] = {"shapes": dict.fromkeys(names, 0.9)}
    figure = figures.bars(pd.DataFrame(), table=table)
    assert figure.axes[0].get_xlim()[1] > 90
    assert figure.axes[0].get_xlabel().startswith("mIoU x100\ngrey: best constant class 90.0, ")
    assert figure.get_label() == "mIoU x100"
    _inside(figure)


def test_curve_says_what_it_lacks(df: pd.DataFrame) -> None:
    with pytest.raises(LabError, match=r"did you mean attention\.temperature"):
        curves.curve(df, "attention.temprature")
    with pytest.raises(LabError, match="no variant was run with two values"):
        curves.curve(df[df["attention"] != "csa"])


def test_diagnostics_show_means_and_every_image() -> None:
    table = pd.DataFrame(
        [
            (variant, image, measure, value)
            for variant, offset in (("vanilla", 0), ("csa", 3))
            for measure, factor in (("attention_entropy", 1), ("outlier_share", 2))
            for image, value in zip("xyz", np.add([0, 1, 0.5], offset + factor) / 10, strict=True)
        ],
        columns=["attention", "image", "measure", "value"],
    ).assign(spec=lambda rows: rows["attention"])
    figure = diagnostic_charts.diagnostics(table)
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["attention entropy", "outlier share"]
    assert "mean over 3 photos" in str(figure.get_label())
    np.testing.assert_allclose([bar.get_width() for bar in first.patches], [0.15, 0.45])
    np.testing.assert_allclose([bar.get_width() for bar in second.patches], [0.25, 0.55])
    (whiskers,) = first.collections
    dots = np.concatenate([line.get_xdata() for line in first.lines])
    assert sorted(dots) == pytest.approx([0.1, 0.15, 0.2, 0.4, 0.45, 0.5])
    ends = [segment[:, 0] for segment in whiskers.get_segments()]
    np.testing.assert_allclose(
        ends, [mean_interval([0.1, 0.2, 0.15]), mean_interval([0.4, 0.5, 0.45])]
    )
    _inside(figure)


def test_no_whisker_leaves_the_range_of_its_measure() -> None:
    values = [1.0, 1.0, 0.7, 1.0, 0.9, 1.0, 1.0, 0.95]
    assert mean_interval(values)[1] > 1
    facts = {"attention": "csa_q", "spec": "k", "measure": "attention_same_class_auroc"}
    table = pd.DataFrame({**facts, "image": list("abcdefgh"), "value": values})
    (whiskers,) = diagnostic_charts.diagnostics(table).axes[0].collections
    (ends,) = (segment[:, 0] for segment in whiskers.get_segments())
    np.testing.assert_allclose(ends, [mean_interval(values)[0], 1.0])


# ---------------------------------------------------------------- pictures


def test_panel_paints_classes_and_names_them(photos: list[picture_files.Picture]) -> None:
    figure = pictures.panel(photos)
    cells = [ax for ax in figure.axes if ax.images]
    assert len(cells) == 2 * (2 + 4)
    titles = [ax.get_title() for ax in cells[:6]]
    assert titles == ["photo", "truth", "vanilla", "csa", "csa\ntemperature=2.0", "identity"]
    np.testing.assert_array_equal(cells[0].images[0].get_array(), photos[0].image)
    scores = [text.get_text() for ax in cells[2:6] for text in ax.texts]
    alone = [
        score(counted(p.prediction, photos[0].mask, len(CLASSES))) for p in photos[0].predictions
    ]
    assert scores == [f"{100 * value:.0f}" for value in alone]
    assert not cells[0].texts + cells[1].texts
    (legend,) = figure.legends
    handles = {text.get_text(): patch for text, patch in zip(
        legend.get_texts(), legend.get_patches(), strict=True)}  # fmt: skip
    assert set(handles) == {*CLASSES, "ignored"}
    assert to_hex(handles["background"].get_facecolor()).upper() == pictures.BACKGROUND
    for cell, labels_shown in ((1, photos[0].mask), (3, photos[0].predictions[1].prediction)):
        painted = cells[cell].images[0].get_array()
        for index, name in enumerate(CLASSES):
            for pixel in painted[labels_shown == index]:
                assert to_hex(pixel / 255) == to_hex(handles[name].get_facecolor())
    assert handles["ignored"].get_hatch()
    _inside(figure)


def test_panel_folds_many_variants_and_rare_classes(photos: list[picture_files.Picture]) -> None:
    many = [replace(photos[0], predictions=photos[0].predictions * 4)]
    figure = pictures.panel(many, colors=pictures.class_colors(many, 2))
    axes = np.array([ax.get_position().bounds for ax in figure.axes])
    assert len(set(axes[:, 1].round(6))) == 3
    assert len(set(axes[:, 0].round(6))) == 6
    assert "2 other classes" in _texts(figure)
    _inside(figure)


def test_class_colours_are_distinct() -> None:
    colors = [*pictures.PALETTE, pictures.BACKGROUND, pictures.OTHER]
    rgb = np.array([[to_rgb(color) for color in colors]], np.float32)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0]  # an independent CIELAB
    gaps = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(lab)) * 1e3
    assert gaps.min() > 25  # 2.3 is what an eye can just tell apart; the three greens had 19


def test_titles_of_neighbours_do_not_touch(photos: list[picture_files.Picture]) -> None:
    renamed = [replace(p, label="a variant of a very long name · with something(temperature=2.0)")
             for p in photos[0].predictions * 3]  # fmt: skip
    figure = pictures.panel([replace(photos[0], predictions=renamed[:10])])
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    for one, two in itertools.combinations(boxes, 2):
        assert not one.overlaps(two)


def test_attention_maps_have_a_column_per_point(photos: list[picture_files.Picture]) -> None:
    figure = pictures.attention_maps(photos)
    grid = np.array(figure.axes[:-1]).reshape(5, 4)  # photo and 4 variants, 2 points of 2 photos
    names = ["photo", "vanilla", "csa", "csa\ntemperature=2.0", "identity"]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == names
    shown = grid[2, 3].images[-1]
    prediction = photos[1].predictions[1]
    np.testing.assert_array_equal(shown.get_array(), prediction.attention[1])
    top, left, height, width = prediction.attention_box[1]
    assert shown.get_extent() == [left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5]
    row, column = prediction.points[1]
    np.testing.assert_array_equal(grid[0, 3].lines[0].get_xydata(), [[column, row]])
    assert [text.get_text() for text in grid[4, 0].texts] == ["no single\nmap"]
    assert not grid[4, 0].images
    _inside(figure)


def test_pictures_say_what_they_lack(photos: list[picture_files.Picture]) -> None:
    with pytest.raises(LabError, match="no pictures"):
        pictures.panel([])
    bare = [replace(p, points=None, attention=None, attention_box=None)
            for p in photos[0].predictions]  # fmt: skip
    with pytest.raises(LabError, match="no points"):
        pictures.attention_maps([replace(photos[0], predictions=bare)])


def test_bars_never_merge_specs_of_one_label(tmp_path: Path) -> None:
    rows = [confusion_rows("x", *labels(0, skill, (24, 32), 5)) for skill in (0.9, 0.2)]
    for seed, row in enumerate(rows):
        write_spec(tmp_path, "csa", [row], ["x"], seed=seed, created=f"2026-01-0{seed + 1}")
    df = results.load(tmp_path)
    (ax,) = figures.bars(df).axes
    scores = results.miou(df).to_numpy() * 100
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], scores)
    assert len({tick.get_text() for tick in ax.get_yticklabels()}) == 2


def test_diagnostics_never_pool_specs_of_one_label() -> None:
    facts = {"attention": "csa", "backbone": "b", "dataset": "d", "protocol": "p", "measure": "m"}
    rows = [{**facts, "spec": s, "image": i, "value": v} for s, i, v in [
        ("aaa111", "x", 1.0), ("bbb222", "x", 3.0)]]  # fmt: skip
    (ax,) = diagnostic_charts.diagnostics(pd.DataFrame(rows)).axes
    assert [bar.get_width() for bar in ax.patches] == [1.0, 3.0]
    assert len({tick.get_text() for tick in ax.get_yticklabels()}) == 2


def test_long_labels_are_not_cut_in_a_report() -> None:
    with figures.style():
        figure = Figure(figsize=(5.6, 1.86), layout="constrained")
        ax = figure.subplots()
        ax.barh([0], [1])
        ax.set_yticks([0], ["vit_tiny_patch16_224"])
    png, _ = page.rendered(figure)
    edge = np.asarray(Image.open(io.BytesIO(png)).convert("L"))[:, :3]
    assert edge.min() == 255
