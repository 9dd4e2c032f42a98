"""Protocols: what identifies one, what shares a pass, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.segmentation.protocol import Protocol, build

CHANGES: dict[str, Any] = {
    "short_side": 448,
    "long_side": 1024,
    "crop_size": 336,
    "stride": 56,
    "views": {"photo": {}, "mirrored": {"flip": "horizontal"}},
    "templates": "simple_imagenet",
    "vocabulary": "sclip_voc21",
    "auxiliary": ("sky", "wall"),
    "second_templates": ("a crop of a {}.",),
    "truncate": True,
    "logit_scale": 50.0,
    "prob_threshold": 0.1,
    "area_threshold": 0.1,
    "background": 1,
    "padding": "centre",
    "resampling": "bicubic",
    "whole_patches": True,
    "centre_crop": 224,
    "readout": {"_target_": "sclip_lab.segmentation.readouts.class_token.class_token"},
    "position_embedding": "bilinear",
    "refinement": {"_target_": "sclip_lab.segmentation.refinements.pamr.pamr"},
}
GEOMETRY = {
    *("short_side", "long_side", "crop_size", "stride", "views", "position_embedding"),
    *("padding", "resampling", "whole_patches", "centre_crop"),
}


def test_every_field_is_listed_here() -> None:
    assert set(Protocol().config) == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_changes_the_key_and_only_geometry_the_windows(name: str) -> None:
    usual, changed = Protocol(), Protocol(**{name: CHANGES[name]})
    assert usual.key != changed.key
    assert (usual.geometry != changed.geometry) == (name in GEOMETRY)


def test_the_name_does_not_change_the_key() -> None:
    assert Protocol(name="a").key == Protocol(name="b").key


READOUTS, REFINEMENTS = "sclip_lab.segmentation.readouts", "sclip_lab.segmentation.refinements"
CLASS_TOKEN = {"_target_": f"{READOUTS}.class_token.class_token"}
PAMR = {"_target_": f"{REFINEMENTS}.pamr.pamr"}
CLOSING = {"_target_": f"{REFINEMENTS}.closing.closing"}
CLIPTRASE = {"_target_": f"{REFINEMENTS}.cliptrase.cliptrase"}


@pytest.mark.parametrize(
    ("field", "short", "long", "other"),
    [
        ("readout", CLASS_TOKEN, CLASS_TOKEN | {"weight": -0.3}, CLASS_TOKEN | {"weight": -0.2}),
        ("readout", None, {"_target_": f"{READOUTS}.cosine.cosine"}, CLASS_TOKEN),
        ("refinement", PAMR, PAMR | {"steps": 10}, PAMR | {"steps": 9}),
        ("refinement", PAMR, {"mine": PAMR | {"steps": 10}, "none": None}, None),
        ("refinement", CLIPTRASE, CLIPTRASE | {"layer": "22/24"}, CLIPTRASE | {"layer": "5/6"}),
    ],
)
def test_two_spellings_of_a_function_are_one_key(
    field: str, short: Any, long: Any, other: Any
) -> None:
    one, two, three = (build({field: value}) for value in (short, long, other))
    assert one.key == two.key
    assert one.key != three.key


def test_refinements_count_in_their_order_and_without_their_names() -> None:
    one = Protocol(refinement={"a": PAMR, "b": CLOSING})
    assert one.key == Protocol(refinement={"x": PAMR, "y": CLOSING}).key
    assert one.key != Protocol(refinement={"b": CLOSING, "a": PAMR}).key


def test_a_function_is_checked_when_the_protocol_is_made() -> None:
    with pytest.raises(LabError, match=r"protocol\.readout: .*did you mean weight"):
        Protocol(readout=CLASS_TOKEN | {"wieght": 1.0})
    with pytest.raises(LabError, match=r"protocol\.refinement: .*did you mean steps"):
        Protocol(refinement={"a": PAMR | {"step": 3}})


def test_lists_and_tuples_are_the_same_templates() -> None:
    assert Protocol(templates=["a {}"]).key == Protocol(templates=("a {}",)).key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prob_threshold", 1.0, "protocol.prob_threshold 1.0 must be at least 0 and below 1"),
        ("area_threshold", -0.1, "protocol.area_threshold"),
        ("logit_scale", 0.0, "protocol.logit_scale 0.0 must be above 0"),
        ("templates", ("a photo",), "needs exactly one"),
        ("templates", ("{} {}",), "needs exactly one"),
    ],
)
def test_values_out_of_range(field: str, value: Any, message: str) -> None:
    with pytest.raises(LabError, match=message):
        Protocol(**{field: value})


def test_unknown_field() -> None:
    with pytest.raises(LabError, match=r"unknown protocol field 'crop'.*did you mean crop_size"):
        build({"crop": 224})


def test_values_of_one_data_set() -> None:
    """SCLIP's configs: docs/field.md 2.1."""
    assert lab.load_protocol("sclip").logit_scale == 40
    voc21 = lab.load_protocol("sclip", "voc21")
    assert (voc21.logit_scale, voc21.prob_threshold, voc21.area_threshold) == (65, 0.1, 0.1)
    assert lab.load_protocol("sclip", "cityscapes").short_side == 560
    assert lab.load_protocol("sclip", "voc21", logit_scale=7.0).logit_scale == 7
