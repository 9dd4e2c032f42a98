"""Every file of conf/ composes, and builds as far as it needs neither data nor a download."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import sclip_lab as lab
from sclip_lab import diagnostics
from sclip_lab.attention.variant import build
from sclip_lab.config import registry
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import bind_config, locate, named_steps
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation.observers import Diagnostics
from sclip_lab.network.scene import Guidance
from sclip_lab.run import job, tracking
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.protocol import REFINEMENTS, Protocol
from tests import toy
from tests.second_network import guide

NEEDS_A_FILE = {"csa_learned"}  # a projection that was learned first


def composed(*overrides: str) -> DictConfig:
    """The whole configuration of one job, Hydra's own part included."""
    with initialize_config_dir(str(registry.conf_dir()), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def files(group: str) -> list[str]:
    return registry.names(group)


def plain(node: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def test_every_file_says_what_it_is_in_its_first_line() -> None:
    for path in registry.conf_dir().rglob("*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("# "), path


@pytest.mark.parametrize("name", files("attention"))
def test_attention(name: str) -> None:
    if name in NEEDS_A_FILE:
        with pytest.raises(LabError, match="projection_file"):
            lab.load_attention(name)
        return
    variant = lab.load_attention(name)
    assert variant.layers(8)  # the embedded model's depth
    assert all(0 <= layer < 12 for layer in variant.layers(12))


@pytest.mark.parametrize("name", ["csa", "naclip", "scclip"])
def test_python_and_the_command_line_agree(name: str) -> None:
    variant = build(plain(composed(f"attention={name}").attention), name)
    assert variant.key == lab.load_attention(name).key
    assert registry.variant_label(variant) == name


@pytest.mark.parametrize("part", ["prior", "mix", "repair", "entry", "hidden"])
def test_parts_of_attention(part: str) -> None:
    for name in registry.names(f"attention/{part}"):
        from_line = build(plain(composed(f"attention/{part}={name}").attention), "csa")
        assert from_line.key == lab.load_attention("csa", **{part: name}).key
        assert (from_line.key != lab.load_attention("csa").key) == (name != "none")


@pytest.mark.parametrize("name", files("backbone"))
def test_backbone(name: str) -> None:
    import inspect

    overrides = [f"backbone={name}", "pretrained=null", "precision=bf16", "seed=3"]
    if name == "open_clip":
        overrides.append("backbone.name=ViT-B-16-plus-240")
    config_group = plain(composed(*overrides).backbone)
    load = registry.backbone_loader(config_group.pop("_target_", None))
    assert set(config_group) - {"usual"} <= set(inspect.signature(load).parameters)
    assert config_group["precision"] == "bf16"
    if name == "patchwork_vit":
        assert Path(config_group["architecture"]).is_file()
        assert Path(config_group["checkpoint"]).is_file()
    else:
        assert config_group["name"].startswith("ViT-" if name != "timm" else "vit_")
        assert config_group["pretrained"] is None
    assert config_group["seed"] == 3


def test_names_of_backbones_are_open_clips() -> None:
    import open_clip

    for name in set(files("backbone")) - {"patchwork_vit", "open_clip", "timm"}:
        assert name in open_clip.list_models()


@pytest.mark.parametrize("name", files("guidance"))
def test_guidance(name: str) -> None:
    import inspect

    from sclip_lab.network.guidance import HUB_NAMES, load_guidance

    config_group = plain(composed(f"guidance={name}", "device=cpu").guidance)
    if name == "none":
        assert not config_group
        return
    assert set(config_group) <= set(inspect.signature(load_guidance).parameters)
    assert config_group["device"] == "cpu"
    if name == "timm":
        with pytest.raises(LabError, match="name"):
            job.make_guidance(json.dumps(config_group))
    else:
        assert config_group["name"] in HUB_NAMES
        small = {"depth": 1, "embed_dim": 32, "num_heads": 2}
        options = {"pretrained": False, "options": small, "device": "cpu"}
        assert lab.load_guidance(name, **options).description["name"] == config_group["name"]


@pytest.mark.parametrize("name", files("dataset"))
def test_dataset(name: str, tmp_path: Path) -> None:
    config_group = plain(composed(f"dataset={name}", f"paths.data={tmp_path}").dataset)
    config_group = {key: value for key, value in config_group.items() if value is not None}
    assert config_group["name"] == name
    if config_group.get("root") == "???":  # a reader of a user's own data: it asks for them
        with pytest.raises(LabError, match=r"dataset\.root is missing"):
            lab.load_dataset(name)
        return
    build_dataset = locate(config_group.pop("_target_"), ("sclip_lab.data",))
    if build_dataset is not Folder:
        assert len(build_dataset(**config_group)) == 64
        return
    assert Vocabulary.named(config_group["vocabulary"]).num_classes > 1
    assert str(tmp_path) in config_group["root"]
    with pytest.raises(LabError, match=r"paths\.data"):
        build_dataset(**config_group)


@pytest.mark.parametrize("name", files("protocol"))
def test_protocol(name: str) -> None:
    for dataset in files("dataset"):
        built = lab.load_protocol(name, dataset)
        assert built.name == name
        assert built.crop_size is None or built.stride <= built.crop_size


@pytest.mark.parametrize("name", files("diagnostics"))
def test_diagnostics(name: str) -> None:
    config_group = composed(f"diagnostics={name}").diagnostics
    Diagnostics(list(config_group.measures), config_group.images)
    if name == "all":
        assert set(config_group.measures) == set(diagnostics.MEASURES)


@pytest.mark.parametrize("name", files("tracking"))
def test_tracking(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)  # online needs one
    config_group = composed(f"tracking={name}").tracking
    tracking.check(config_group)
    assert config_group.mode == name


@pytest.mark.parametrize("name", files("refinement"))
def test_refinement(name: str) -> None:
    # A choice by data set refines those with background, so one of them is composed.
    config_group = plain(composed(f"refinement={name}", "dataset=voc21").protocol)["refinement"]
    steps = named_steps(config_group).values()
    bound = [bind_config(step, *REFINEMENTS) for step in steps]
    assert (not bound) == (name == "none")


@pytest.mark.parametrize("name", files("readout"))
def test_readout(name: str) -> None:
    """Every readout on every kind of attention gives finite logits on a grid that is not square."""
    config_group = plain(composed(f"readout={name}").protocol)["readout"]
    chosen = Readout(Protocol(readout=config_group), toy.text(), torch.arange(8))
    for attention in ("vanilla", "scclip", "surgery"):
        variant = lab.load_attention(attention)
        encoded = toy.encoded(toy.network(), toy.inputs()["quirk112x448"], variant)
        windows = guide().of_windows(encoded.images, encoded.backbone)
        scene = replace(encoded.scene, guidance=Guidance(lambda windows=windows: windows))
        encoded = replace(encoded, scene=scene)
        logits = toy.logits(chosen, encoded)
        assert logits.shape == (1, 7, 28, 8)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", files("experiment"))
def test_experiment(name: str) -> None:
    hydra = composed(f"experiment={name}").hydra
    params = plain(hydra.sweeper).get("params") or {}
    grids = plain(hydra.sweeper).get("grids") or [{}]
    assert params or any(grids)
    for group, choices in ((g, c) for grid in grids for g, c in {**params, **grid}.items()):
        if group in ("attention", "backbone", "dataset", "protocol", "readout"):
            for choice in str(choices).split(","):
                assert choice.strip() in files(group)


def test_default_job_is_the_embedded_world() -> None:
    config = composed()
    spec = job.make_spec(config)
    assert (spec.label, spec.backbone.name, spec.dataset.name) == (
        "csa", "patchwork_vit", "patchwork"
    )  # fmt: skip
    assert config.hydra.launcher["_target_"].endswith("FusedLauncher")


def test_tags_and_files_of_weights(tmp_path: Path, architecture: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    usual = composed()
    assert usual.backbone.pretrained is None  # the embedded model has no tags
    assert composed("backbone=ViT-B-16-quickgelu").backbone.pretrained == "openai"
    with pytest.raises(LabError, match="backbone: patchwork_vit: pretrained=openai"):
        job.make_spec(composed("pretrained=openai"))
    with pytest.raises(LabError, match="this backbone has a file of its own"):
        job.make_spec(composed("checkpoint=trained.safetensors"))
    weights = lab.load_backbone(None, architecture=architecture, device="cpu").model.state_dict()
    file = tmp_path / "weights.safetensors"
    save_file({k: v.clone() for k, v in weights.items()}, file)
    loaded = lab.load_backbone(None, architecture=architecture, checkpoint=str(file), device="cpu")
    assert loaded.description["pretrained"] is None
