"""Networks, options and checkpoints that a backbone cannot be made of: one clear error each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.network.vit import load_vit
from tests.conftest import ARCHITECTURE

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ViT-B-61", "unknown backbone 'ViT-B-61'; did you mean .*ViT-B-16"),
        ("RN50", "RN50: its image tower is a ModifiedResNet, not open_clip's ViT"),
        ("convnext_base", "ConvNeXt"),
        ("roberta-ViT-B-32", "Give text_folder=|needs the package transformers"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_unsupported_models(name: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        load_backbone(name, device="cpu")


def test_vit_without_image_embedding() -> None:
    vision = {**ARCHITECTURE["vision_cfg"], "pool_type": "none"}
    with pytest.raises(LabError, match="its pool_type none gives no image embedding"):
        load_backbone(architecture={**ARCHITECTURE, "vision_cfg": vision}, device="cpu")


def test_vit_without_class_token(backbone: Backbone) -> None:
    model = copy.deepcopy(backbone.model)
    model.visual.class_embedding = None
    with pytest.raises(LabError, match="no class token"):
        Backbone("headless", model, backbone.tokenize)


def test_unknown_tag() -> None:
    with pytest.raises(LabError, match="pretrained tag of ViT-B-16 'opena'; did you mean openai"):
        load_backbone("ViT-B-16", "opena", device="cpu")


def test_nothing_named() -> None:
    with pytest.raises(LabError, match="name an architecture"):
        load_backbone()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"precision": "fp8"}, "did you mean fp32 or fp16"),
        ({"padding": "cornr"}, "did you mean corner"),
        ({"architecture": {"embed_dim": 3}}, "lacks text_cfg, vision_cfg"),
        (
            {"architecture": {**ARCHITECTURE, "vision_cfg": {"depth": 3}}},
            "unexpected keyword argument 'depth'",
        ),
        ({"architecture": "no/such.json"}, r"no/such\.json"),
        ({"checkpoint": "no/such.pt"}, r"no/such\.pt does not exist"),
        ({"checkpoint": "a.pt", "state_dict": {}}, "not both"),
        ({"weights": "ema"}, "weights=ema chooses among those of a checkpoint; there is none"),
        ({"text_folder": "/nope"}, "its texts need nothing of transformers; leave text_folder"),
        ({"state_dict": {}}, "state_dict holds no state dict"),
        ({"state_dict": [1]}, "state_dict holds no state dict"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        load_backbone(**{"architecture": ARCHITECTURE, "device": "cpu", **options})


def test_a_name_whose_texts_have_no_folder() -> None:
    with pytest.raises(LabError, match="ViT-B-32: its texts need nothing of transformers"):
        load_backbone("ViT-B-32", text_folder="/nope", device="cpu")
    with pytest.raises(LabError, match="weights=ema chooses among those of a checkpoint"):
        load_vit("vit_tiny_patch16_224", weights="ema", device="cpu")


def test_weights_of_another_architecture(weights: dict[str, Tensor]) -> None:
    def load(state_dict: dict[str, Tensor]) -> None:
        load_backbone(architecture=ARCHITECTURE, state_dict=state_dict, device="cpu")

    with pytest.raises(LabError, match=r"1 of another shape, first visual\.proj is \(64, 25\)"):
        load({**weights, "visual.proj": torch.zeros(64, 25)})
    with pytest.raises(LabError, match=r"1 unexpected, first visual\.extra"):
        load({**weights, "visual.extra": torch.zeros(1)})
    with pytest.raises(LabError, match=r"1 weights missing, first visual\.proj"):
        load({key: value for key, value in weights.items() if key != "visual.proj"})
    with pytest.raises(LabError, match="does not fit architecture ViT-S-32-alt"):
        load_backbone("ViT-S-32-alt", state_dict=weights, device="cpu")


def test_weights_that_are_not_finite(weights: dict[str, Tensor]) -> None:
    bad = weights["visual.proj"].clone()
    bad[3, 5] = torch.nan
    with pytest.raises(LabError, match=r"state_dict: weight visual\.proj contains NaN"):
        load_backbone(
            architecture=ARCHITECTURE, state_dict={**weights, "visual.proj": bad}, device="cpu"
        )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 cut off"])
def test_corrupt_checkpoint(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(LabError, match=rf"checkpoint .*bad{suffix} cannot be read"):
        load_backbone(checkpoint=path, architecture=ARCHITECTURE, device="cpu")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)], ids=repr)
def test_checkpoint_without_weights(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(LabError, match="holds no state dict"):
        load_backbone(checkpoint=path, architecture=ARCHITECTURE, device="cpu")


def test_truncated_checkpoint(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(LabError, match=r"cut\.safetensors cannot be read"):
        load_backbone(checkpoint=path, architecture=ARCHITECTURE, device="cpu")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "payload.pt"
    torch.save({"state_dict": Payload()}, path)
    with pytest.raises(LabError, match="cannot be read"):
        load_backbone(checkpoint=path, architecture=ARCHITECTURE, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_network_of_ones_own_without_its_architecture() -> None:
    with pytest.raises(LabError, match=r"unknown backbone 'mine'.*needs an architecture"):
        load_backbone("mine", architecture=None, device="cpu")
