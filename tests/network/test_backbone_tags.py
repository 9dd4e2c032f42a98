"""The weights that the comments of conf/backbone name are those that open_clip has."""

from __future__ import annotations

import open_clip
import pytest
from omegaconf import OmegaConf

from sclip_lab.config.registry import conf_dir, names
from sclip_lab.core.errors import LabError
from sclip_lab.network.loading import load_backbone

NAMED = [name for name in names("backbone") if name in open_clip.list_models()]


def test_all_but_three_files_are_open_clips() -> None:
    assert set(names("backbone")) - set(NAMED) == {"open_clip", "patchwork_vit", "timm"}


@pytest.mark.parametrize("name", NAMED)
def test_tags_exist(name: str) -> None:
    file = conf_dir() / "backbone" / f"{name}.yaml"
    assert OmegaConf.load(file)["name"] == name
    header = file.read_text().splitlines()[0]
    tags = header.rpartition("pretrained=")[2].split(" | ")
    assert tags[-1] == "null"
    assert set(tags[:-1]) <= set(open_clip.list_pretrained_tags_by_model(name))


@pytest.mark.parametrize("name", ["convnext_base", "RN50"])
def test_other_image_towers_say_what_is_unsupported(name: str) -> None:
    with pytest.raises(LabError, match=r"not open_clip.s ViT|is no plain vision transformer"):
        load_backbone(name, pretrained=None)
