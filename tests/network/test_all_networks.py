"""Every name of both libraries loads and equals its library's own forward, or says why not.

Slow: some 500 networks, each made small. A new release of a library is seen here.
"""

from __future__ import annotations

import open_clip
import pytest
import timm

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.survey import survey
from sclip_lab.network.vit import load_vit
from tests import toy
from tests.network.small_networks import (
    own_features,
    perturbed,
    photos,
    refused,
    relative_error,
    small_clip,
    small_options,
)

pytestmark = [pytest.mark.usefixtures("quiet"), pytest.mark.slow]
EXACT = 5e-6
FAMILIES = {
    *("vision_transformer", "eva", "deit", "beit", "naflexvit", "vitamin"),
    *("vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam"),
}
CLIPS = [
    name
    for name in open_clip.list_models()
    if not name.startswith(("RN", "convnext", "swin", "MobileCLIP-S", "MobileCLIP2-S"))
]
OF_HUB = [n for n in CLIPS if "hf_model_name" in open_clip.get_model_config(n)["text_cfg"]]
VITS = [
    name
    for name in timm.list_models()
    if timm.models.model_entrypoint(name).__module__.rpartition(".")[2] in FAMILIES
]
# At most so many of timm's vision transformers are refused, each in one line.
MOST_REFUSED = 12


def equals_its_library(backbone: Backbone) -> None:
    images = photos(backbone)
    patches, whole = own_features(backbone, images)
    ours = toy.encoded(backbone, images, load_attention("vanilla"))
    assert relative_error(ours.patches.flatten(1, 2), patches) < EXACT
    assert relative_error(ours.class_embedding, whole) < EXACT


@pytest.mark.parametrize("name", [name for name in CLIPS if name not in OF_HUB])
def test_of_open_clip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    equals_its_library(small_clip(monkeypatch, name))


@pytest.mark.parametrize("name", OF_HUB)
def test_with_a_text_tower_of_a_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LabError, match=r"text_folder=|needs the package transformers"):
        small_clip(monkeypatch, name)


def test_of_timm() -> None:
    lines, wrong = [], []
    for name in VITS:
        options = small_options(name)
        try:
            try:
                backbone = load_vit(name, device="cpu", options=options)
            except LabError as error:
                if "cannot build it" not in str(error):
                    raise
                backbone = load_vit(name, device="cpu", options={"depth": options["depth"]})
            equals_its_library(perturbed(backbone))
        except LabError as error:
            lines.append(refused(error))
        except AssertionError as error:
            wrong.append((name, str(error)[:200]))
    assert wrong == []
    assert len(lines) <= MOST_REFUSED, lines


def test_the_table_has_every_name() -> None:
    networks = list(survey("eva")) + list(survey("ViT-B-16"))
    assert {n.name for n in networks if n.library == "timm"} >= {
        name for name in timm.list_models() if "eva" in name
    }
    assert not [n.name for n in networks if n.refusal and n.name.startswith("ViT-B-16")]
    row = next(n for n in networks if n.name == "ViT-B-16-quickgelu")
    assert (row.depth, row.patch, row.image, row.activation) == (12, 16, 224, "QuickGELU")
    assert row.mean == "122.8 116.7 104.1"
    pe = next(iter(survey("PE-Core-B-16")))
    assert (pe.class_token, pe.registers, pe.mean) == (True, 0, "127.5 127.5 127.5")
