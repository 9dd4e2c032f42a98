"""Presets of conf/experiment and conf/protocol: what they sweep, which value wins, what is said."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from analysis import diagnostics, methods, protocols
from sclip_lab.attention.variant import build
from sclip_lab.config import registry as registry
from sclip_lab.config.composition import plain_config
from sclip_lab.config.sweeper import sweep
from sclip_lab.paper import published
from sclip_lab.run.job import make_protocol
from sclip_lab.segmentation.protocol import Protocol

EXPERIMENTS = registry.conf_dir() / "experiment"
CARD = {
    *("vanilla", "csa", "csa_mean", "csa_q", "csa_k", "csa_v", "csa_identity", "csa_random"),
    *("csa_random_orthogonal", "csa_random_full", "csa_random_ensemble"),
    *("sharpened", "local", "early", "maskclip"),
}
# docs/field.md 2.4: short side, window, stride, logit scale, thresholds of probability and area.
PUBLISHED = {
    ("sclip", "voc21"): (336, 224, 112, 65, 0.1, 0.1),
    ("sclip", "context60"): (336, 224, 112, 50, 0.1, 0),
    ("sclip", "coco_object"): (336, 224, 112, 50, 0.1, 0),
    ("sclip", "coco_stuff164k"): (448, 224, 112, 40, 0, 0),
    ("sclip", "cityscapes"): (560, 224, 112, 40, 0, 0),
    ("sclip", "ade20k"): (336, 224, 112, 40, 0, 0),
    ("naclip", "voc21"): (336, None, 112, 40, 0.1, 0),
    ("naclip", "voc20"): (336, None, 112, 40, 0, 0),
    ("naclip", "coco_object"): (336, 224, 112, 40, 0.1, 0),
    ("naclip", "coco_stuff164k"): (336, 224, 112, 40, 0, 0),
    ("naclip", "cityscapes"): (560, 224, 112, 40, 0, 0),
    ("naclip_pamr", "voc21"): (336, None, 112, 40, 0.1, 0),
    ("clearclip", "voc20"): (448, 448, 224, 50, 0, 0),
    ("clearclip", "voc21"): (448, 448, 224, 50, 0.5, 0),
    ("clearclip", "coco_object"): (448, 448, 224, 50, 0.4, 0),
    ("clearclip", "cityscapes"): (448, 224, 224, 50, 0, 0),
    ("resclip", "voc21"): (336, None, 112, 40, 0.1, 0),
    ("sc_clip", "voc21"): (336, 224, 112, 50, 0.15, 0.1),
    ("sc_clip", "coco_object"): (336, 224, 112, 55, 0.35, 0),
    ("sfp", "ade20k"): (384, 224, 112, 40, 0, 0),
    ("sfp", "coco_object"): (336, 224, 112, 55, 0.35, 0),
    ("itaclip", "voc21"): (336, 224, 28, 60, 0.1, 0.1),
    ("unified", "voc21"): (336, 224, 112, 40, 0, 0),
    ("unified", "cityscapes"): (336, 224, 112, 40, 0, 0),
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(registry.conf_dir()), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def axes(experiment: str) -> dict[str, list[str]]:
    """What a preset sweeps: key -> values. No preset has values with commas in them."""
    loaded = OmegaConf.load(EXPERIMENTS / f"{experiment}.yaml")
    assert isinstance(loaded, DictConfig)
    params = loaded.hydra.sweeper.params.items()
    return {key: [value.strip() for value in str(values).split(",")] for key, values in params}


@cache
def jobs(experiment: str, **replaced: str) -> list[DictConfig]:
    """The configurations of a preset's jobs, with what is typed in the place of its values."""
    return sweep([f"experiment={experiment}", *(f"{k}={v}" for k, v in replaced.items())])


def label(config: DictConfig) -> str:
    chosen = config.hydra.runtime.choices.attention
    variant = build(plain_config(config.attention), chosen)
    return registry.variant_label(variant, config.protocol.name, config.dataset.name)


@pytest.mark.parametrize("name", registry.names("experiment"))
def test_experiment_says_how_to_run_it_and_its_cells_differ(name: str) -> None:
    text = (EXPERIMENTS / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n# python experiments/evaluate.py -m experiment=")
    assert f"experiment={name}\n" in text
    parts = ("backbone", "dataset", "protocol")
    cells = [(label(job), *(str(plain_config(job[part])) for part in parts)) for job in jobs(name)]
    assert len(cells) == len(set(cells)) >= 2


def test_experiments_cover_what_they_name() -> None:
    assert set(axes("card")["attention"]) == CARD
    assert len(axes("demo")["attention"]) >= 14
    every = set(registry.names("attention"))
    guided = {"fsa_proxy", "gla_proxy", "guided", "proxyclip"}
    # An oracle or a control is no method, and an intervention is made of two.
    interventions = {"set_mass", "between", "shuffled", "entropy", "composed", "oracle", "blind",
                     "uniform"}  # fmt: skip
    apart = {"csa_learned", "cliper_level", *guided, *interventions}
    unified = [job for job in jobs("methods") if job.protocol.name == "unified"]
    attentions = {job.hydra.runtime.choices.attention for job in unified}
    assert attentions == every - apart
    random = [j for j in jobs("methods", pretrained="null") if j.protocol.name == "unified"]
    expected = (every - apart) | guided
    assert {job.hydra.runtime.choices.attention for job in random} == expected
    assert {"0", "1"} <= set(axes("window")["attention.prior.radius"])
    sides = [job.protocol.short_side for job in jobs("resolution", backbone="ViT-B-16")]
    assert sorted(set(sides)) == [224, 336, 448]
    assert max(job.protocol.short_side for job in jobs("resolution")) < 224  # sees 96 pixels


def test_overrides_win_over_an_experiment() -> None:
    result = jobs("window", dataset="coco_panoptic20", **{"attention.prior.radius": "4"})
    assert [(job.dataset.name, label(job)) for job in result] == [
        ("coco_panoptic20", "local(prior.radius=4)")
    ]


@pytest.mark.parametrize(("name", "dataset"), PUBLISHED)
def test_protocol_has_the_published_values(name: str, dataset: str) -> None:
    protocol = registry.load_protocol(name, dataset)
    side, window, *rest = PUBLISHED[name, dataset]
    assert (protocol.name, protocol.short_side, protocol.crop_size) == (name, side, window)
    result = [
        protocol.stride,
        protocol.logit_scale,
        protocol.prob_threshold,
        protocol.area_threshold,
    ]
    assert result == rest
    assert protocol.templates == "openai_imagenet"


@pytest.mark.parametrize("name", registry.names("protocol"))
def test_every_protocol_fits_the_embedded_world(name: str) -> None:
    protocol = registry.load_protocol(name, "patchwork")
    crop = None if name == "cliptrase" else 96
    assert (protocol.short_side, protocol.long_side, protocol.crop_size, protocol.stride) == (
        None,
        2048,
        crop,
        32,
    )
    assert (protocol.padding, protocol.resampling, protocol.whole_patches) == (
        None,
        "bilinear",
        False,
    )
    assert protocol.centre_crop is None
    assert len(protocol.views or ()) == (5 if name == "itaclip" else 0)
    assert (protocol.views is not None) == (name == "itaclip")
    assert protocol.templates == ("{}",)
    usual = registry.load_protocol(name)
    assert (protocol.refinement is None) == (usual.refinement is None)
    if name != "cliptrase":  # whose readout is VOC20's alone
        assert (protocol.readout is None) == (usual.readout is None)


def test_typed_values_come_before_those_of_the_data_set() -> None:
    def protocol_of(dataset: str, *typed: str) -> Protocol:
        return make_protocol(composed(f"dataset={dataset}", *typed))

    assert protocol_of("voc21").logit_scale == 65
    typed = protocol_of("voc21", "protocol.logit_scale=30", "protocol.short_side=448")
    assert (typed.logit_scale, typed.short_side) == (30, 448)
    assert typed.prob_threshold == 0.1  # not typed: still the data set's
    # Also where the typed value is the protocol's own, and where its name is added or forced.
    assert protocol_of("coco_stuff164k", "protocol.short_side=336").short_side == 336
    assert protocol_of("coco_stuff164k", "++protocol.short_side=336").short_side == 336
    assert (
        protocol_of("patchwork", "protocol.templates=simple_imagenet").templates
        == "simple_imagenet"
    )
    paired = protocol_of("voc21", "protocol=clearclip", "protocol.vocabulary=voc21_plain")
    assert paired.vocabulary == "voc21_plain"
    conditional = "protocol.logit_scale='${on_dataset:30,{voc21:20}}'"
    assert protocol_of("voc21", conditional).logit_scale == 20
    assert protocol_of("ade20k", conditional).logit_scale == 30


def test_typed_refinement_comes_before_the_protocols() -> None:
    def steps(*typed: str) -> int | None:
        refinement = make_protocol(composed("protocol=naclip_pamr", *typed)).refinement
        return None if refinement is None else refinement["steps"]

    assert steps() == 10
    assert steps("refinement=none") is None
    assert steps("refinement=pamr", "protocol.refinement.steps=3") == 3
    assert steps("protocol.refinement.steps=4") == 4


def test_published_numbers_name_our_variants_as_tables_do() -> None:
    for label in set(published.read()["attention"]) - {""}:
        name, _, changes = label.partition("(")
        pairs = (change.split("=") for change in changes.rstrip(")").split(", ") if change)
        overrides = {key: ast.literal_eval(value) for key, value in pairs}
        assert name in registry.names("attention"), label
        if name != "csa_learned":  # which has no label without its file
            assert registry.variant_label(registry.load_attention(name, **overrides)) == label


@pytest.mark.parametrize("module", [methods, protocols, diagnostics])
def test_generated_documents_are_up_to_date(module: object) -> None:
    file = module.FILE  # type: ignore[attr-defined]
    assert isinstance(file, Path)
    assert file.read_text(encoding="utf-8") == module.document()  # type: ignore[attr-defined]
