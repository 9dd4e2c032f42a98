"""Statistics and activation are those that the weights were trained with.

The oracle is what open_clip itself notes on the model that it loads.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import open_clip
import pytest
import torch
from omegaconf import OmegaConf

import sclip_lab as lab
from sclip_lab.config.folders import conf_dir, names
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import MEAN, STD
from sclip_lab.network.loading import load_backbone
from tests.network.small_networks import publish, shrink

pytestmark = pytest.mark.usefixtures("quiet")
INTEGERS = {
    "input_resolution": torch.tensor(64),
    "context_length": torch.tensor(77),
    "vocab_size": torch.tensor(49408),
}


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("ViT-L-14", "laion2b_s32b_b82k"),
        ("ViT-L-14", "laion400m_e31"),
        ("ViT-H-14-CLIPA", "datacomp1b"),
        ("ViT-B-16-quickgelu", "openai"),
    ],
)
def test_a_tag_brings_its_statistics(
    name: str, tag: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(monkeypatch, name)
    publish(monkeypatch, name, tmp_path / "weights.pt")
    backbone = load_backbone(name, tag, device="cpu")
    noted = open_clip.create_model(name, tag).visual
    assert backbone.mean == pytest.approx([255 * value for value in noted.image_mean], abs=1e-3)
    assert backbone.std == pytest.approx([255 * value for value in noted.image_std], abs=1e-3)
    image = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (noted.image_mean, noted.image_std))
    torch.testing.assert_close(
        backbone.normalise(255 * image), (image - mean) / std, atol=1e-4, rtol=1e-4
    )


def test_a_local_folder_brings_its_statistics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(monkeypatch, "ViT-S-32")
    publish(monkeypatch, "ViT-S-32", tmp_path / "open_clip_pytorch_model.bin")
    config = {
        "model_cfg": open_clip.get_model_config("ViT-S-32"),
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    backbone = load_backbone(f"local-dir:{tmp_path}", device="cpu")
    assert backbone.mean == pytest.approx((25.5, 51, 76.5))
    assert backbone.std == pytest.approx((102, 127.5, 153))


def test_a_file_takes_what_all_tags_agree_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(monkeypatch, "ViT-H-14-CLIPA")
    weights = publish(monkeypatch, "ViT-H-14-CLIPA", tmp_path / "clipa.pt")
    clipa = load_backbone("ViT-H-14-CLIPA", state_dict=weights, device="cpu")
    assert clipa.mean == pytest.approx([255 * v for v in open_clip.constants.IMAGENET_MEAN])


def test_a_file_of_a_name_with_two_statistics_warns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shrink(monkeypatch, "ViT-L-14")
    weights = publish(monkeypatch, "ViT-L-14", tmp_path / "large.pt")
    logging.disable(logging.NOTSET)
    backbone = load_backbone("ViT-L-14", state_dict=weights, device="cpu")
    assert (backbone.mean, backbone.std) == (MEAN, STD)
    [line] = [r.getMessage() for r in caplog.records if "statistics" in r.getMessage()]
    assert "backbone.mean" in line
    assert "127.5" in line
    caplog.clear()
    stated = load_backbone("ViT-L-14", state_dict=weights, device="cpu", mean=MEAN, std=STD)
    assert stated.key == backbone.key
    assert not [r for r in caplog.records if "statistics" in r.getMessage()]


def mismatches() -> list[tuple[str, str]]:
    """Pairs of name and tag whose activations differ, by open_clip's own notes."""
    return [
        (name, tag)
        for name, tag in open_clip.list_pretrained()
        if "ViT" in name
        and bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
        != bool(open_clip.get_model_config(name).get("quick_gelu"))
    ]


def test_there_are_such_pairs() -> None:
    assert len(mismatches()) >= 18


@pytest.mark.parametrize(("name", "tag"), mismatches())
def test_a_tag_with_another_activation_is_refused(name: str, tag: str) -> None:
    with pytest.raises(
        LabError,
        match=r"computes \w+, but the tag .* was trained with \w+: .*backbone\.quick_gelu=",
    ):
        load_backbone(name, tag, device="cpu")


def test_a_tag_with_another_activation_can_be_decided(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shrink(monkeypatch, "ViT-B-16")
    publish(monkeypatch, "ViT-B-16", tmp_path / "weights.pt")
    with pytest.raises(LabError, match="use backbone=ViT-B-16-quickgelu, or"):
        load_backbone("ViT-B-16", "openai", device="cpu")
    backbone = load_backbone("ViT-B-16", "openai", device="cpu", quick_gelu=True)
    assert backbone.activation == "QuickGELU"


def test_openais_file_under_a_name_with_gelu_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ViT-B-16", "ViT-B-16-quickgelu"):
        shrink(monkeypatch, name)
    weights = publish(monkeypatch, "ViT-B-16", tmp_path / "weights.pt") | INTEGERS
    torch.save(weights, tmp_path / "openai.pt")
    with pytest.raises(LabError, match=r"openai\.pt was trained with QuickGELU.*-quickgelu"):
        load_backbone("ViT-B-16", checkpoint=tmp_path / "openai.pt", device="cpu")
    right = load_backbone("ViT-B-16-quickgelu", checkpoint=tmp_path / "openai.pt", device="cpu")
    oracle = open_clip.create_model("ViT-B-16-quickgelu", str(tmp_path / "weights.pt")).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = oracle.encode_image(image)
        embedded = right.model.encode_image(image)
    torch.testing.assert_close(embedded, expected)


@pytest.mark.parametrize(
    "name", sorted(set(names("backbone")) - {"open_clip", "patchwork_vit", "timm"})
)
def test_the_usual_tag_of_a_file_fits_its_name(name: str) -> None:
    usual = OmegaConf.load(conf_dir() / "backbone" / f"{name}.yaml")["usual"]
    assert usual in open_clip.list_pretrained_tags_by_model(name)
    assert (name, usual) not in mismatches()


def test_python_takes_the_same_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink(monkeypatch, "ViT-B-16")
    publish(monkeypatch, "ViT-B-16", tmp_path / "weights.pt")
    backbone = lab.load_backbone("ViT-B-16", "openai", quick_gelu=True, mean=(1, 2, 3))
    assert backbone.mean == (1, 2, 3)
