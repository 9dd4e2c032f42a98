"""What a stranger's description of a network may not do: fetch, name files, take all memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sclip_lab.core.errors import LabError
from sclip_lab.network.architecture import check_architecture
from sclip_lab.network.checkpoint import read_checkpoint
from sclip_lab.network.guidance import load_guidance
from sclip_lab.network.loading import load_backbone

SOUND: dict[str, Any] = {"embed_dim": 8, "vision_cfg": {"width": 16}, "text_cfg": {"width": 16}}


def test_numbers_and_plain_names_pass() -> None:
    check_architecture(SOUND, "mine.json")
    check_architecture({**SOUND, "vision_cfg": {"timm_model_name": "vit_tiny"}}, "mine.json")


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("vision_cfg", {"timm_model_name": "hf_hub:stranger/net"}),
        ("vision_cfg", {"timm_model_name": "local-dir:/anywhere"}),
        ("vision_cfg", {"timm_model_pretrained": True}),
        ("text_cfg", {"hf_model_name": "stranger/net"}),
        ("text_cfg", {"hf_model_pretrained": True}),
    ],
)
def test_a_model_of_a_hub_is_refused(part: str, values: dict[str, Any]) -> None:
    key = next(iter(values))
    with pytest.raises(LabError, match=rf"mine.json: {part}.{key} .* loads a model of a hub"):
        check_architecture({**SOUND, part: values}, "mine.json")


@pytest.mark.parametrize(("key", "value"), [("layers", 10**6), ("width", 2**40)])
def test_sizes_are_bounded_before_memory_is_taken(key: str, value: int) -> None:
    with pytest.raises(LabError, match=rf"mine.json: vision_cfg.{key} {value}"):
        check_architecture({**SOUND, "vision_cfg": {key: value}}, "mine.json")


def test_a_network_that_is_too_large_in_all_is_not_built() -> None:
    vision = {"width": 2**20, "layers": 900, "image_size": 32, "patch_size": 16, "head_width": 64}
    text = {"width": 64, "heads": 1, "layers": 1, "vocab_size": 8, "context_length": 8}
    with pytest.raises(LabError, match="weights"):
        load_backbone(architecture={"embed_dim": 8, "vision_cfg": vision, "text_cfg": text})


@pytest.mark.parametrize("key", ["pretrained_cfg", "checkpoint_path", "cache_dir"])
def test_options_of_timm_name_no_files(key: str) -> None:
    with pytest.raises(LabError, match=rf"guidance.options.{key} loads what may run code"):
        load_guidance("vit_tiny_patch16_224", options={key: "x"})


def test_a_weight_claims_no_more_numbers_than_are_stored(tmp_path: Path) -> None:
    sound, odd = tmp_path / "sound.pt", tmp_path / "odd.pt"
    torch.save({"w": torch.zeros(4)}, sound)
    assert read_checkpoint(sound)["w"].shape == (4,)
    torch.save({"w": torch.zeros(1).expand(10**9)}, odd)
    with pytest.raises(LabError, match=r"weight w of shape .1000000000,. has fewer numbers"):
        read_checkpoint(odd)
    save_file({"w": torch.zeros(4)}, tmp_path / "sound.safetensors")
    assert read_checkpoint(tmp_path / "sound.safetensors")["w"].shape == (4,)
