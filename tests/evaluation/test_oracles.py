"""Cells that read ground truth see the right labels, and nobody takes them for a method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import uses
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Diagnostics, Pictures
from sclip_lab.evaluation.spec import ORACLE, Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import Context
from sclip_lab.paper import sections, studies, verdicts
from sclip_lab.report import figures, page, store_report, tables
from sclip_lab.report.evidence import Evidence
from sclip_lab.segmentation import photos as preparation
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.protocol import Protocol
from tests.photos import folder, write

majorities: list[Tensor] = []


@uses("labels")
def peek(ctx: Context) -> Tensor:
    majorities.append(ctx.labels.majority.clone())
    return ctx.attention()


def specs(backbone: Backbone, protocol: Protocol, dataset: Folder) -> list[Spec]:
    names = ("vanilla", "csa", "oracle", "set_mass", "blind")
    variants = [lab.load_attention(name) for name in names]
    return [Spec(variant, backbone, protocol, dataset) for variant in variants]


@pytest.mark.parametrize("batch", [1, 3])
def test_labels_are_those_of_the_windows(
    batch: int, backbone: Backbone, protocol: Protocol, tmp_path: Path
) -> None:
    sizes = [(70, 100), (64, 64), (70, 100)]
    root = write(tmp_path / "photos", sizes)
    blank(root, 1)
    dataset = folder(root)
    majorities.clear()
    spec = Spec(lab.variant(peek), backbone, protocol, dataset)
    evaluate([spec], tmp_path / "store", batch_images=batch, progress=False)
    expected = []
    for sample in (dataset[k] for k in range(3)):
        plan, _ = preparation.prepare(sample.image, protocol, backbone)
        expected.append(windows.patch_labels(plan, sample.mask, 255).flatten(1))
    counted = sorted(torch.cat(majorities).tolist())
    assert counted == sorted(torch.cat(expected).tolist())
    assert -1 in torch.cat(majorities)  # void somewhere


def blank(root: Path, number: int) -> None:
    """Void in the left half of one mask."""
    file = root / "masks" / f"{number}.png"
    mask = np.array(Image.open(file))
    mask[:, : mask.shape[1] // 2] = 255
    Image.fromarray(mask).save(file)


def test_the_truth_is_what_moves_an_oracle(
    backbone: Backbone, protocol: Protocol, photos: Folder, tmp_path: Path
) -> None:
    """A variant that attends as labels say, checked by the measure of other classes."""
    chosen = specs(backbone, protocol, photos)
    observer = Diagnostics(["inter_class_mass"], images=None)
    evaluate(chosen, tmp_path, observers=[observer], progress=False)
    measured = results.diagnostics(tmp_path).groupby("attention", observed=True)["value"].mean()
    assert measured["oracle"] == 0
    assert measured["oracle set_mass"] == pytest.approx(0.5, abs=0.03)  # rows beside void patches
    assert 0.1 < measured["vanilla"] < 1


def test_keys_know_the_labels(backbone: Backbone, protocol: Protocol, tmp_path: Path) -> None:
    one, other = folder(write(tmp_path / "a")), folder(write(tmp_path / "b"))
    blank(tmp_path / "b", 2)
    first, second, method = (
        Spec(lab.load_attention(name), backbone, protocol, dataset)
        for name, dataset in (("oracle", one), ("oracle", other), ("csa", one))
    )
    assert first.identity["labels"] != second.identity["labels"]
    assert first.key != second.key
    assert "labels" not in method.identity
    assert (first.oracle, method.oracle) == (True, False)


def test_labels_say_oracle(backbone: Backbone, protocol: Protocol, photos: Folder) -> None:
    labels = {spec.attention.name: spec.label for spec in specs(backbone, protocol, photos)}
    assert labels == {
        "vanilla": "vanilla",
        "csa": "csa",
        "oracle": "oracle",
        "set_mass": "oracle set_mass",
        "blind": "blind",
    }
    labelled = Spec(lab.load_attention("set_mass"), backbone, protocol, photos, label="mine")
    assert labelled.label == "oracle mine"


def test_views_have_no_labels(backbone: Backbone, photos: Folder) -> None:
    flipped = lab.load_protocol("itaclip", short_side=64, crop_size=64, stride=32)
    assert len(flipped.views or ()) > 1
    with pytest.raises(LabError, match="ground truth, which is not known of the changed views"):
        Spec(lab.load_attention("oracle"), backbone, flipped, photos)


def _is_oracle(text: str) -> bool:
    return "set_mass" in text or ORACLE in text


def _walk(section_tables: dict, oracles: int) -> int:
    """Every cell of text that names an oracle begins with the word, and is not bold."""
    met = 0
    for table in section_tables.values():
        bold = table.attrs.get("bold", {})
        for position, row in enumerate(table.itertuples(index=False)):
            texts = [value for value in row if isinstance(value, str) and _is_oracle(value)]
            for text in texts:
                assert ORACLE in text, text
                met += 1
            if any(text.startswith(ORACLE) for text in texts):
                assert not any(flags[position] for flags in bold.values())
    return met


def test_no_table_and_no_picture_ranks_an_oracle(
    backbone: Backbone, protocol: Protocol, photos: Folder, tmp_path: Path
) -> None:
    chosen = specs(backbone, protocol, photos)
    observers = [Pictures(2), Diagnostics(["spatial_invariance", "inter_class_mass"], 3)]
    df = evaluate(chosen, tmp_path, observers=observers, progress=False)
    oracles = {spec.key[:12] for spec in chosen if spec.oracle}
    assert set(df.attrs["oracles"]) == oracles
    summary = results.summary(df, n=50)
    rows = summary[summary["spec"].isin(oracles)]
    assert len(rows) == 2
    assert rows["attention"].str.startswith(ORACLE).all()
    assert not rows["unbeaten"].any()
    assert rows["oracle"].all()
    assert not summary.drop(rows.index)["oracle"].any()
    methods = summary.drop(rows.index)
    assert methods["unbeaten"].any()
    # Whether oracles stand beside them changes nothing for methods.
    alone = results.summary(results.load(tmp_path, [s.key for s in chosen if not s.oracle]), n=50)
    assert alone["unbeaten"].tolist() == methods["unbeaten"].tolist()
    for table in (results.ranks(df, n=20), results.mean_over_datasets(df, n=20)):
        assert not table["attention"].astype(str).str.startswith(ORACLE).any()
    related = results.relations(df, results.diagnostics(tmp_path), n=20)
    assert related["variants"].max() == 3
    with pytest.raises(LabError, match="oracles are not ranked"):
        results.ranks(results.load(tmp_path, sorted(oracles)), n=20)

    assert "oracle" not in store_report.result(Evidence(df))
    only = Evidence(results.load(tmp_path, sorted(oracles)))
    assert store_report.result(only) == "All cells read ground truth: oracles, not ranked."
    met = 0
    for section in store_report.sections(store_report.read(tmp_path)):
        met += _walk(section.tables, len(oracles))
        for figure in section.figures.values():
            figure.draw_without_rendering()
            names = [text.get_text() for text in figure.findobj(Text)]
            labels = [name for name in names if "set_mass" in name]
            assert all(name.startswith(ORACLE) or f"\n{ORACLE}" in name for name in labels), labels
    assert met >= 2
    (ax,) = figures.bars(df, sort=True).axes
    order = [label.get_text() for label in ax.get_yticklabels()]
    assert all(name.startswith(ORACLE) for name in order[-2:])
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [False] * 3 + [True] * 2


def test_the_pages_of_all_studies_mark_oracles(
    backbone: Backbone, protocol: Protocol, photos: Folder, tmp_path: Path
) -> None:
    """Every study of the paper with oracles among its cells: tables, charts, claims, answers."""
    names = ("vanilla", "csa", "csa_mean", "oracle", "blind", "uniform")
    variants = [lab.load_attention(name) for name in names]
    variants += [lab.load_attention("set_mass", base=base, other=other)
                 for base in ("vanilla", "csa_mean") for other in (0.0, 0.5)]  # fmt: skip
    chosen = [Spec(variant, backbone, protocol, photos) for variant in variants]
    observers = [Pictures(2), Diagnostics(["inter_class_mass"], 3)]
    evaluate(chosen, tmp_path, observers=observers, progress=False)
    part = store_report.read(tmp_path)
    studies_drawn = [sections.draw(name, studies.load(name), part) for name in studies.names()]
    page_sections, judged = sections.sections(studies_drawn)
    assert not any(verdict.answer == verdicts.HOLDS for verdict in judged)
    met = 0
    for section in page_sections:
        met += _walk(section.tables, 5)
        for figure in section.figures.values():
            texts = [text.get_text() for text in figure.findobj(Text)]
            assert all(ORACLE in text for text in texts if "set_mass" in text)
        for row in section.rows:
            for text in row.cells.values():
                assert text.count("set_mass") == text.count(f"{ORACLE} set_mass"), text
    assert met > 5
    page.write(
        [replace(section, makers=()) for section in page_sections], tmp_path / "page", "studies"
    )
    html = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert html.count("set_mass") == html.count(f"{ORACLE} set_mass") > 0
    assert tables.ORACLES in html


def test_the_explorer_shows_no_oracle(backbone: Backbone) -> None:
    """It has no ground truth, with or without a mask to outline."""
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), int)
    for outline in (None, mask):
        with pytest.raises(LabError, match="reads ground truth"):
            lab.explore(image, ["a", "b"], ["vanilla", "oracle"], backbone, mask=outline)


def test_an_oracle_in_python_needs_labels(backbone: Backbone) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    oracle: Variant = lab.load_attention("oracle")
    with pytest.raises(LabError, match="evaluate it on a data set with masks"):
        lab.segment(backbone, image, ["a", "b"], oracle)
