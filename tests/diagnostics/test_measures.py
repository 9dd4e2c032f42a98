"""The registry: every measure runs on every kind of observation and stays in its range."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from sclip_lab.config.registry import conf_dir, load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics import (
    MEASURES,
    Layers,
    Measure,
    Observation,
    SegmentedPhoto,
    compute,
    find,
)
from sclip_lab.diagnostics.measure import values
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.encoded import encode
from sclip_lab.segmentation.windows import plan

GRID = (6, 8)


def measure(observation: Observation, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: compute(MEASURES[name], observation) for name in names}


def labelled(batch: int = 2) -> Tensor:
    """Left half 0, right half 1, a void row at the bottom."""
    labels = torch.zeros(batch, *GRID, dtype=torch.long)
    labels[..., 4:] = 1
    labels[:, -1] = -1
    return labels


def observe(backbone: Backbone, images: Tensor, name: str, **overrides: object) -> Observation:
    variants = [load_attention(name, **overrides)]
    [(_, state, _)] = tree.leaves(backbone.blocks, backbone.embed(images), GRID, variants)
    patches, whole = backbone.project(state, GRID)
    encoded = next(iter(encode(backbone, images, variants)))[1]
    similarity = torch.randn(2, *GRID, 3, generator=torch.Generator().manual_seed(0))
    size = GRID[0] * backbone.patch_size, GRID[1] * backbone.patch_size
    mask = np.zeros(size, np.uint8)
    mask[:, size[1] // 2 :] = 1
    photo = SegmentedPhoto(
        np.roll(mask, 3, 1), mask, plan(size, size, None, 1, backbone.patch_size), 255
    )
    return Observation(
        state.attention,
        patches,
        whole,
        labelled(),
        GRID,
        backbone.patch_size,
        similarity,
        Layers(encoded),
        photo,
    )


# A photo of one window has no border between windows, and one photo alone no neighbours.
UNDEFINED = {"window_border_error", "patch_retrieval_miou"}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("attention", ["vanilla", "csa", "maskclip"])
def test_every_measure(name: str, attention: str, backbone: Backbone, images: Tensor) -> None:
    value = measure(observe(backbone, images, attention), [name])[name]
    assert value.shape == (2,)
    assert value.dtype == torch.float32
    alone = attention == "maskclip" and "attention to self" in MEASURES[name].undefined
    assert value.isfinite().all() or name in UNDEFINED or alone
    low, high = MEASURES[name].low, MEASURES[name].high
    value = value.nan_to_num(low or 0.0)
    assert low is None or (value >= low - 1e-5).all()
    assert high is None or (value <= high + 1e-5).all()
    assert MEASURES[name].says


def test_batch_equals_singles(backbone: Backbone, images: Tensor) -> None:
    observation = observe(backbone, images, "csa")
    assert observation.attention is not None
    assert observation.similarity is not None
    assert observation.layers is not None
    together = measure(observation, MEASURES)
    for i in range(2):
        alone = replace(
            observation,
            attention=observation.attention[i : i + 1],
            patches=observation.patches[i : i + 1],
            class_embedding=observation.class_embedding[i : i + 1],
            labels=observation.labels[i : i + 1],
            similarity=observation.similarity[i : i + 1],
            layers=Layers(observation.layers.encoded.part(slice(i, i + 1))),
        )
        for name, value in measure(alone, MEASURES).items():
            torch.testing.assert_close(
                value[0], together[name][i], atol=1e-5, rtol=1e-4, equal_nan=True
            )


def test_maskclip_in_closed_form(backbone: Backbone, images: Tensor) -> None:
    values = measure(observe(backbone, images, "maskclip"), MEASURES)
    assert values["attention_entropy"].tolist() == [0, 0]
    assert values["mean_attention_distance"].tolist() == [0, 0]
    assert values["diagonal_mass"].tolist() == [1, 1]
    assert values["inter_class_mass"].tolist() == [0, 0]
    # Off the diagonal all weights are 0: attention tells no pair from another.
    assert values["attention_same_class_auroc"].tolist() == [0.5, 0.5]


# What a map that does not look at the photo has to be far from, where a direction is given.
BLIND = ({"kind": "gaussian"}, {"kind": "partner"}, {"kind": "uniform"})


@pytest.mark.parametrize("name", [n for n, m in MEASURES.items() if m.better and not m.outcome])
def test_no_blind_map_reaches_the_ideal(name: str, backbone: Backbone, images: Tensor) -> None:
    measure_ = MEASURES[name]
    blind = [observe(backbone, images, "blind", **parameters) for parameters in BLIND]
    for observation in [*blind, observe(backbone, images, "maskclip")]:
        value = measure(observation, [name])[name].nanmean().item()
        ideal = measure_.high if measure_.better == "high" else measure_.low
        assert ideal is not None
        width = (measure_.high if measure_.high is not None else 1.0) - (measure_.low or 0.0)
        assert np.isnan(value) or abs(value - ideal) > 0.02 * width


def test_what_depends_on_the_row_sum_says_so(backbone: Backbone, images: Tensor) -> None:
    one, three = (
        observe(backbone, images, "between", a="csa", b="csa", row_sum=factor)
        for factor in (1.0, 3.0)
    )
    for name, spec in MEASURES.items():
        if spec.needs[:1] != ("attention",) or "photo" in spec.needs:
            continue
        a, b = measure(one, [name])[name], measure(three, [name])[name]
        same = torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
        assert same != spec.of_row_sum, name


def test_class_token_is_left_out(backbone: Backbone, images: Tensor) -> None:
    observation = observe(backbone, images, "vanilla")
    assert observation.attention is not None
    among = replace(observation, attention=observation.attention[..., 1:, 1:])
    for name in MEASURES:
        if "layers" in MEASURES[name].needs:  # these look at the class token
            continue
        one, other = measure(observation, [name])[name], measure(among, [name])[name]
        torch.testing.assert_close(one, other, atol=0, rtol=0, equal_nan=True)


def test_no_attention_map(backbone: Backbone, images: Tensor) -> None:
    blind = replace(observe(backbone, images, "csa"), attention=None)
    for name, value in measure(blind, MEASURES).items():
        assert value.shape == (2,)
        assert value.isnan().all() == (("attention" in MEASURES[name].needs) or name in UNDEFINED)
    with pytest.raises(LabError, match="no single attention map"):
        _ = blind.weights


def test_labels_tell_nothing_where_there_is_one_class(backbone: Backbone, images: Tensor) -> None:
    observation = replace(observe(backbone, images, "csa"), labels=torch.zeros(2, *GRID))
    values = measure(observation, MEASURES)
    undefined = {name for name, value in values.items() if value.isnan().all()} - UNDEFINED
    one_class = {n for n, m in MEASURES.items() if "windows of one class" in m.undefined}
    assert undefined == one_class


def test_unknown_measure() -> None:
    with pytest.raises(LabError, match="did you mean inter_class_mass"):
        find("inter_clas_mass")


MODULE = """from sclip_lab.diagnostics import Measure
def spread(seen):
    "Standard deviation of the features."
    return seen.features.std((1, 2))
squared = Measure(lambda seen: seen.features.square().mean((1, 2)), "mean square")
number = 3
"""


def test_measures_from_outside(
    backbone: Backbone, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_ideas.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LabError, match=r"not an allowed module. Allow it with plugins="):
        find("outside_ideas.spread")
    monkeypatch.setenv("SCLIP_LAB_PLUGINS", "outside_ideas")
    observation = observe(backbone, images, "csa")
    spread = find("outside_ideas.spread")
    assert spread.says == "Standard deviation of the features."
    torch.testing.assert_close(compute(spread, observation), observation.features.std((1, 2)))
    assert compute(find("outside_ideas.squared"), observation).shape == (2,)
    with pytest.raises(LabError, match=r"unknown measure .*'number'.*known: spread, squared"):
        find("outside_ideas.number")
    with pytest.raises(LabError, match="did you mean squared"):
        find("outside_ideas.square")


def test_a_users_measure_cannot_write_to_what_others_read(
    backbone: Backbone, images: Tensor
) -> None:
    def doubles(seen: Observation) -> Tensor:
        return seen.patches.mul_(2).mean((1, 2, 3))

    def doubles_an_array(seen: Observation) -> Tensor:
        array = seen.patches.numpy()
        array *= 2
        return seen.patches.mean((1, 2, 3))

    def leaves(seen: Observation) -> Tensor:
        raise SystemExit

    def centres(seen: Observation) -> Tensor:
        copy = seen.patches.clone()
        return copy.sub_(copy.mean()).std((1, 2, 3))

    observation = observe(backbone, images, "csa")
    functions = (doubles, doubles_an_array, leaves, centres)
    measures = {f.__name__: Measure(f, "", high=None) for f in functions}
    before = observation.patches.clone()
    with pytest.raises(RuntimeError, match="doubles writes in place"):
        list(values(measures, ["doubles"], observation))
    with pytest.raises(ValueError, match="read-only"):
        list(values(measures, ["doubles_an_array"], observation))
    with pytest.raises(RuntimeError, match="leaves ends the process"):
        list(values(measures, ["leaves"], observation))
    assert torch.equal(observation.patches, before)
    assert next(iter(values(measures, ["centres"], observation))).value > 0
    assert all(m.compute.__module__.startswith("sclip_lab.") for m in MEASURES.values())


@pytest.mark.parametrize("name", ["none", "default", "all"])
def test_configurations(name: str) -> None:
    config = yaml.safe_load((conf_dir() / "diagnostics" / f"{name}.yaml").read_text())
    for measure in config["measures"]:
        find(measure)
    assert set(config) == {"measures", "images", "layers"}
    if name == "all":
        assert config["measures"] == list(MEASURES)
    assert bool(config["measures"]) == (config["images"] > 0) == (name != "none")
