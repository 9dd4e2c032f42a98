"""A large store is drawn in pictures that a screen can show, and nothing of it is lost."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sclip_lab import results
from sclip_lab.report import figures, page, store_report
from sclip_lab.report.evidence import Evidence
from sclip_lab.results.store import picture_files
from tests.synthetic_store import (
    confusion_rows,
    write_cell,
    write_pictures,
    write_spec,
    write_store,
)

VARIANTS, CLASSES = 45, 90
OTHERS = ["x", "y", "z"]
LIMIT = 11.0  # inches: 1650 pixels in a report


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Forty-five variants on ninety classes, pictures of two photos, five measures."""
    root = tmp_path_factory.mktemp("large")
    names = [f"a class with quite a name {index}" for index in range(CLASSES)]
    mask = np.arange(CLASSES).astype(np.uint8).reshape(9, 10)
    for index in range(VARIANTS):
        guess = np.where(mask % (index + 2), mask, 0).astype(np.uint8)
        label = f"variant_{index}(temperature={index})"
        write_spec(root, label, [confusion_rows("x", guess, mask)], ["x"], class_names=names)
    df = results.load(root)
    small = tmp_path_factory.mktemp("pictures")
    write_pictures(small, write_store(small))
    pictures = [
        replace(picture, predictions=[replace(picture.predictions[0], label=f"v{k}")
                                    for k in range(VARIANTS)])
        for picture in picture_files.load(small)
    ]  # fmt: skip
    rows = df.drop_duplicates("spec").drop(columns=["true", "predicted", "pixels"])
    chosen = ["inter_class_mass", "inter_class_share", "rank_accuracy", *OTHERS]
    diagnosed = pd.concat([rows.assign(measure=name, value=0.5) for name in chosen])
    return Evidence(df, diagnosed, pictures)


@pytest.fixture(scope="module")
def figures_of(large: Evidence) -> dict[str, Mapping[str, Figure]]:
    """The report's figures by section."""
    return {part.name: part.figures for part in store_report.sections(large)}


def test_every_picture_of_a_large_store_fits_a_screen(
    figures_of: dict[str, Mapping[str, Figure]],
) -> None:
    assert set(figures_of) >= {"scores", "diagnostics", "pictures"}
    every_figure = [figure for part in figures_of.values() for figure in part.values()]
    assert max(figure.get_size_inches()[1] for figure in every_figure) <= LIMIT
    names = {name.rpartition("_")[0] for part in figures_of.values() for name in part}
    assert names == {"bars", "per_class", "diagnostics", "panel", "attention"}  # numbered


def test_nothing_is_lost_between_pages(figures_of: dict[str, Mapping[str, Figure]]) -> None:
    bars = [
        ax for name, f in figures_of["scores"].items() if name.startswith("bars") for ax in f.axes
    ]
    shown = [tick.get_text() for ax in bars for tick in ax.get_yticklabels()]
    assert len(shown) == len(set(shown)) == VARIANTS
    cells = sum(
        ax.collections[0].get_array().size
        for name, figure in figures_of["scores"].items() if name.startswith("per_class")
        for ax in figure.axes if ax.get_yticklabels() and ax.get_ylabel() != "IoU x100"
    )  # fmt: skip
    assert cells == VARIANTS * CLASSES
    titles = [ax.get_title() for figure in figures_of["diagnostics"].values() for ax in figure.axes]
    assert sorted(titles) == sorted(
        3 * [*OTHERS, "inter class mass", "rank accuracy"] + [""] * titles.count("")
    )
    legends = {
        tuple((t.get_text(), p.get_facecolor()) for t, p in zip(
            f.legends[0].get_texts(), f.legends[0].get_patches(), strict=True))
        for name, f in figures_of["pictures"].items() if name.startswith("panel")
    }  # fmt: skip
    assert len(legends) == 1  # a class has one colour on all pages
    maps = [f for name, f in figures_of["pictures"].items() if name.startswith("attention")]
    rows = [ax.get_ylabel() for figure in maps for ax in figure.axes if ax.get_ylabel()]
    assert [row for row in rows if row != "photo"] == [f"v{k}" for k in range(VARIANTS)]


def test_axes_say_what_is_good_and_controls_are_lines(
    figures_of: dict[str, Mapping[str, Figure]],
) -> None:
    first = figures_of["diagnostics"]["diagnostics_1"]
    charts = {ax.get_title(): ax for ax in first.axes}
    assert "inter class share" not in charts
    assert charts["inter class mass"].get_xlabel() == "dotted: control"
    assert [line.get_linestyle() for line in charts["inter class mass"].lines][-1] == ":"
    assert charts["rank accuracy"].get_xlabel() == "right is good"
    assert charts["x"].get_xlabel() == ""


def test_charts_of_many_data_sets_go_on_in_the_next_line(tmp_path: Path) -> None:
    for index in range(8):
        write_cell(tmp_path, "csa", 0.5, ["x"], dataset=f"set {index}")
    figure = figures.bars(results.load(tmp_path))
    assert figure.get_size_inches()[0] <= 14
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert sorted(titles) == [f"set {index}, 1 photos" for index in range(8)]


def test_pictures_of_one_caption_are_all_on_the_page(tmp_path: Path) -> None:
    figures_of = {}
    for name in ("first", "second"):
        figures_of[name] = Figure(figsize=(1, 1))
        figures_of[name].set_label("one caption for both")
    page.write([page.Section("s", "s", makers=[lambda: figures_of])], tmp_path, "title")
    assert (tmp_path / "index.html").read_text(encoding="utf-8").count("<figure>") == 2


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
def test_several_processes_draw_the_same_files(tmp_path: Path) -> None:
    figures_of = {}
    for number in range(3):
        figures_of[f"picture_{number}"] = Figure(figsize=(1 + number, 1), layout="constrained")
        figures_of[f"picture_{number}"].subplots().plot([0, number], label="a line")
    sections = [page.Section(name, name, makers=[partial(dict, {name: figure})])
                for name, figure in figures_of.items()]  # fmt: skip
    several = page.write(sections, tmp_path / "several", "title", processes=2)
    assert all(figure.get_layout_engine() is not None for figure in figures_of.values())  # not here
    alone = page.write(sections, tmp_path / "alone", "title")
    for one, other in zip(several, alone, strict=True):
        assert one.name == other.name
        if one.suffix != ".pdf":  # which holds the time
            assert one.read_bytes() == other.read_bytes()
    assert several[-1].read_bytes().startswith(b"%PDF")
