"""Preset = official configuration, field by field.

official_configs.tsv has one row for each configuration that was read: what the config says, or the
segmentor's default where it says nothing. ``vocabulary`` is the number of classes and of queries
and the beginning of the digest of the official list (empty where none was read); ``own`` holds
values of the method itself by their places.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sclip_lab.config.folders import names
from sclip_lab.config.registry import load_group, load_protocol
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import MEAN, STD
from sclip_lab.segmentation.prompts import templates
from sclip_lab.segmentation.protocol import Protocol

FILE = Path(__file__).with_name("official_configs.tsv")
with FILE.open(encoding="utf-8", newline="") as opened:
    ROWS = list(csv.DictReader(opened, delimiter="\t", quoting=csv.QUOTE_NONE))
# The variant whose values a row's ``own`` speaks of.
ATTENTION = {
    "resclip": "resclip",
    "sc_clip": "scclip",
    "sfp": "sfp",
    "dih": "dih",
    "proxyclip": "proxyclip",
    "fsa": "fsa_proxy",
    "gla": "gla_proxy",
    "pearl": "pearl",
}
FIRST_THREE = "share of the photo, grey and blurred"


def ours(preset: str, dataset: str, loaded: Protocol) -> dict[str, str]:
    """The composed preset in the words of the table."""
    thresholds = loaded.prob_threshold
    if isinstance(thresholds, float):
        threshold = f"{thresholds:g}"
    else:
        threshold = thresholds["_target_"].rpartition(".")[2]
    name_or_words = loaded.vocabulary
    if name_or_words is None and dataset in names("dataset"):
        name_or_words = load_group("dataset", dataset)["vocabulary"]
    vocabulary = None if name_or_words is None else Vocabulary.named(name_or_words)
    steps = loaded.refinement or {}
    pamr = steps if "steps" in steps else steps.get("pamr", {})
    pamr = pamr if str(pamr.get("_target_", "")).endswith(".pamr") else {}
    return {
        "short_side": str(loaded.short_side),
        "long_side": str(loaded.long_side),
        "crop_size": "whole" if loaded.crop_size is None else str(loaded.crop_size),
        "stride": str(loaded.stride),
        "logit_scale": f"{loaded.logit_scale:g}",
        "prob_threshold": threshold,
        "area_threshold": f"{loaded.area_threshold:g}",
        "background": str(loaded.background),
        "vocabulary": ""
        if vocabulary is None
        else f"{vocabulary.num_classes} {len(vocabulary.queries)} {vocabulary.key[:12]}",
        "padding": "none" if loaded.padding is None else str(loaded.padding),
        "pamr_steps": str(pamr.get("steps", 0)),
    }


def at(preset: str, dataset: str, loaded: Protocol, place: str) -> Any:
    """The value of a variant, readout or threshold by its dotted place."""
    if place == FIRST_THREE:
        views = loaded.views
        assert views is not None
        weights = [view["weight"] for view in views.values()]
        return round(sum(weights[:3]) / sum(weights), 9)
    part, *keys = place.split(".")
    if part == "attention":
        value: Any = load_group("attention", ATTENTION[preset], dataset=dataset, protocol=preset)
    else:
        value = getattr(loaded, part)
    for key in keys:
        value = value[key]
    return value


@pytest.mark.parametrize("row", ROWS, ids=[f"{r['preset']}-{r['dataset']}" for r in ROWS])
def test_preset_is_the_official_configuration(row: dict[str, str]) -> None:
    preset, dataset = row["preset"], row["dataset"]
    loaded = load_protocol(preset, dataset)
    actual = ours(preset, dataset, loaded)
    expected = {key: row[key] for key in actual}
    if not expected["vocabulary"]:
        actual["vocabulary"] = ""
    assert actual == expected, row["source"]
    stated = json.loads(row["own"] or "{}")
    assert {place: at(preset, dataset, loaded, place) for place in stated} == stated, row["source"]
    assert loaded.templates == "openai_imagenet"
    assert loaded.centre_crop is None
    assert (loaded.resampling, loaded.whole_patches) == ("bilinear", False)


@pytest.mark.parametrize(
    ("dataset", "classes", "queries"),
    [  # CLIPtrase configs/dataset_cfg.py
        ("voc21", 21, 53),
        ("voc20", 20, 20),
        ("context60", 60, 60),
        ("context59", 59, 59),
        ("coco_object", 81, 187),
        ("coco_stuff164k", 171, 171),
        ("ade20k", 150, 150),
    ],
)
def test_cliptrases_code(dataset: str, classes: int, queries: int) -> None:
    """CLIPtrase clip_self_correlation.py: _transform1, gt_transform, self_clip(224, 0.7, 3)."""
    loaded = load_protocol("cliptrase", dataset)
    assert (loaded.short_side, loaded.centre_crop, loaded.crop_size) == (224, 224, None)
    assert loaded.resampling == "bicubic"
    assert (loaded.prob_threshold, loaded.area_threshold) == (0, 0)
    assert loaded.refinement["eps"] == 0.7
    assert loaded.refinement["min_samples"] == 3
    assert (loaded.readout is not None) == (dataset == "voc20")
    assert loaded.vocabulary is not None
    words = Vocabulary.named(loaded.vocabulary)
    assert (words.num_classes, len(words.queries)) == (classes, queries)


@pytest.mark.parametrize(
    ("dataset", "side", "scale", "share", "classes", "pixels", "background"),
    [  # CLIPer scripts/config/vit-b-16/ovs_*.yaml: size, logit_scale, attention_thr,
        # score_threshold, bkg_thre; data/*/cls_*.txt
        ("voc21", 336, 100, 0.1, 0.7, 0.6, 25),
        ("voc20", 336, 100, 0.1, None, None, 0),
        ("context60", 336, 100, 0.2, 0.45, 0.45, 1),
        ("context59", 336, 100, 0.2, None, None, 0),
        ("coco_object", 336, 50, 0.2, 0.3, 0.3, 23),
        ("coco_stuff164k", 336, 50, 0.2, None, None, 0),
        ("ade20k", 336, 100, 0.2, None, None, 0),
        ("cityscapes", 560, 100, 0.35, None, None, 0),
    ],
)
def test_clipers_code(
    dataset: str,
    side: int,
    scale: float,
    share: float,
    classes: float | None,
    pixels: float | None,
    background: int,
) -> None:
    loaded = load_protocol("cliper", dataset)
    assert (loaded.short_side, loaded.crop_size, loaded.resampling) == (side, None, "bicubic")
    assert loaded.whole_patches
    assert loaded.position_embedding == "bilinear_half"
    readout = loaded.readout
    assert (readout["scale"], readout["threshold"]) == (scale, share)
    assert readout["background"] == background
    inside = 224 if dataset in ("context59", "context60", "coco_object") else None
    assert readout["window"] == inside  # sliding_crop_size
    decided = loaded.refinement or {"class_threshold": None, "pixel_threshold": None}
    assert (decided["class_threshold"], decided["pixel_threshold"]) == (classes, pixels)
    if background:
        assert decided["background"] == background
        name_or_words = loaded.vocabulary
        assert name_or_words is not None
        assert len(Vocabulary.named(name_or_words).classes[0]) == background


SHARED = Path(__file__).resolve().parents[3] / "shared" / "official_configs.tsv"
PRESETS = {
    "SCLIP": "sclip",
    "NACLIP": "naclip",
    "ClearCLIP": "clearclip",
    "PEARL": "pearl",
    "FreeCP": "freecp",
    "ProxyCLIP": "proxyclip",
}
DATASETS = {"city_scapes": "cityscapes"}


def official_fields() -> list[tuple[str, str, dict[str, str]]]:
    """Preset, data set, and every field that the method's own configuration sets."""
    if not SHARED.is_file():
        return []
    by_key: dict[tuple[str, str], dict[str, str]] = {}
    with SHARED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            dataset = DATASETS.get(row["config"], row["config"])
            if row["method"] in PRESETS and dataset in names("dataset"):
                key = PRESETS[row["method"]], dataset
                by_key.setdefault(key, {})[row["field"]] = row["value"]
    return [(*key, fields) for key, fields in by_key.items()]


@pytest.mark.parametrize(("preset", "dataset", "fields"), official_fields())
def test_every_field_of_the_official_file(
    preset: str, dataset: str, fields: dict[str, str]
) -> None:
    """Read from the file beside the repository itself; without it there is nothing to compare."""
    loaded = load_protocol(preset, dataset)

    def stated(place: str) -> str:
        return f"{float(at(preset, dataset, loaded, place)):g}"

    long, short = re.findall(r"\d+", fields["resize"])[:2]
    assert (loaded.long_side, loaded.short_side) == (int(long), int(short))
    ours = {
        "slide_crop": lambda: str(loaded.crop_size or 0),
        "slide_stride": lambda: str(loaded.stride),
        "logit_scale": lambda: f"{loaded.logit_scale:g}",
        "prob_thd": lambda: f"{loaded.prob_threshold:g}",
        "area_thd": lambda: f"{loaded.area_threshold:g}",
        "alpha_kk": lambda: stated("attention.key_share"),
        "grid": lambda: stated("refinement.side"),
        "rp_thres": lambda: stated("readout.redundancy"),
        "ap_thres": lambda: stated("readout.ambiguity"),
    }
    for field, value in fields.items():
        if field in ours:
            assert ours[field]() == f"{float(value):g}", field
    # What a configuration does not set has the segmentor's default.
    assert fields.get("prob_thd") or loaded.prob_threshold == 0
    if preset == "pearl":
        assert fields.get("alpha_kk") or stated("attention.key_share") == "0.08"
        assert fields.get("grid") or stated("refinement.side") == "80"


def test_what_all_official_segmentors_share() -> None:
    assert MEAN == (122.771, 116.746, 104.094)
    assert STD == (68.501, 66.632, 70.323)
    assert len(set(templates("openai_imagenet"))) == 80


def test_the_table_covers_every_preset_of_a_configuration() -> None:
    covered = {row["preset"] for row in ROWS}
    apart = {
        *("sclip_paper", "unified"),  # no configuration of theirs
        *("naclip_pamr", "lposs_plus"),  # another and a refinement
        *("gem", "surgery", "maskclip"),  # whose configurations were not read
        *("cliptrase", "cliper"),  # codes of their own: above
    }
    assert covered == set(names("protocol")) - apart
