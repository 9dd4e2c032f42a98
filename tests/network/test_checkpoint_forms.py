"""Forms of checkpoint files: each loads to the features of whoever wrote it, or says what to do."""

from __future__ import annotations

import argparse
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import vision_transformer, vision_transformer_sam
from torch import Tensor, nn

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.guidance import load_guidance
from sclip_lab.network.loading import load_backbone
from sclip_lab.network.vit import load_vit
from tests import toy
from tests.network.small_networks import publish, relative_error, shrink

pytestmark = pytest.mark.usefixtures("quiet")
EXACT = 1e-6
NAME = "ViT-B-16"
Weights = dict[str, Tensor]


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Weights:
    for name in (NAME, f"{NAME}-quickgelu", "ViT-B-32"):
        shrink(monkeypatch, name)
    return publish(monkeypatch, NAME, tmp_path / "published.pt")


def images(side: int = 64) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def expected_image(weights: Weights, name: str = NAME) -> Tensor:
    model = open_clip.create_model(name).eval()
    model.load_state_dict(weights)
    with torch.inference_mode():
        return model.encode_image(images())


def image_of(backbone: Backbone, side: int = 64) -> Tensor:
    return toy.encoded(backbone, images(side), load_attention("vanilla")).class_embedding


def loads_exactly(path: Path, published: Weights, **options: Any) -> Backbone:
    backbone = load_backbone(NAME, checkpoint=path, device="cpu", **options)
    assert relative_error(image_of(backbone), expected_image(published)) < EXACT
    return backbone


def behind(prefix: str) -> Callable[[Weights], Any]:
    return lambda w: {f"{prefix}{name}": value for name, value in w.items()}


WRAPPED: dict[str, Callable[[Weights], Any]] = {
    "plain": lambda w: w,
    "ordered": OrderedDict,
    "parameters": lambda w: {
        k: nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in w.items()
    },
    "state_dict": lambda w: {"epoch": 3, "name": "run", "state_dict": behind("module.")(w)},
    "with optimizer": lambda w: {
        "state_dict": w,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "model": lambda w: {"model": w, "epoch": 1},
    "model_state_dict": lambda w: {"model_state_dict": w},
    "deepspeed": lambda w: {"module": w, "global_steps": 4},
    "lightning": lambda w: {"state_dict": behind("model.")(w), "pytorch-lightning_version": "2"},
    "nested": lambda w: {"checkpoint": {"model": w}},
    "plain values beside the weights": lambda w: w | {"epoch": 3, "config": {"lr": 1}, "rev": "a"},
    "module.": behind("module."),
    "model.": behind("model."),
    "clip_model.": behind("clip_model."),
    "_orig_mod.": behind("_orig_mod."),
    "_orig_mod.module.": behind("_orig_mod.module."),
    "module._orig_mod.": behind("module._orig_mod."),
    "base_model.model.": behind("base_model.model."),
    "a prefix of one's own": behind("net.encoder."),
    "averaged": lambda w: {"n_averaged": torch.tensor(3)} | behind("module.")(w),
    "wrapped inside": lambda w: {
        k.replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module.").replace(
            "visual.", "visual._orig_mod."
        ): v
        for k, v in w.items()
    },
    "logit_bias": lambda w: w | {"logit_bias": torch.zeros(())},
    "attn_mask": lambda w: w | {"attn_mask": torch.zeros(77, 77)},
    "no logit_scale": lambda w: {k: v for k, v in w.items() if k != "logit_scale"},
    "logit_scale of a vector": lambda w: w | {"logit_scale": w["logit_scale"].reshape(1)},
    "newer text names": lambda w: {
        k if k.startswith(("visual.", "logit")) else f"text.{k}": v for k, v in w.items()
    },
}


@pytest.mark.parametrize("form", WRAPPED)
def test_wrapped(form: str, weights: Weights, tmp_path: Path) -> None:
    torch.save(WRAPPED[form](weights), tmp_path / "it.pt")
    backbone = loads_exactly(tmp_path / "it.pt", weights)
    assert backbone.has_text
    assert backbone.encode_text(["a cat"]).shape == (1, 48)


@pytest.mark.parametrize("form", ["model", "state_dict", "_orig_mod.", "module."])
def test_weights_in_memory_are_unwrapped_too(form: str, weights: Weights) -> None:
    wrapped = WRAPPED[form](weights)
    backbone = load_backbone(NAME, state_dict=wrapped, device="cpu")
    assert relative_error(image_of(backbone), expected_image(weights)) < EXACT


def test_openais_sizes_as_plain_numbers(weights: Weights, tmp_path: Path) -> None:
    sizes = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    torch.save(weights | sizes, tmp_path / "it.pt")
    with pytest.raises(LabError, match="was trained with QuickGELU"):
        load_backbone(NAME, checkpoint=tmp_path / "it.pt", device="cpu")


@pytest.mark.parametrize("rows", [16, 21])
def test_positions_of_no_square(rows: int, weights: Weights, tmp_path: Path) -> None:
    torch.save(weights | {"visual.positional_embedding": torch.ones(rows, 64)}, tmp_path / "it.pt")
    with pytest.raises(LabError, match=rf"positional_embedding is \({rows}, 64\), not \(17, 64\)"):
        load_backbone(NAME, checkpoint=tmp_path / "it.pt", device="cpu")


def test_a_longer_text_length_is_a_warning(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.disable(logging.NOTSET)
    torch.save(weights | {"positional_embedding": torch.randn(248, 64)}, tmp_path / "it.pt")
    load_backbone(NAME, checkpoint=tmp_path / "it.pt", device="cpu")
    assert "interpolated from 248 to 77 tokens" in caplog.text


@pytest.mark.parametrize("suffix", [".bin", ".pth", ".ckpt", ".safetensors", ".weights"])
def test_suffixes_do_not_matter(suffix: str, weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / f"it{suffix}"
    torch.save(weights, path)  # also a pickle named .safetensors
    loads_exactly(path, weights)
    save_file(weights, path)  # and safetensors named .pth
    loads_exactly(path, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(dtype: torch.dtype, weights: Weights, tmp_path: Path) -> None:
    low = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights.items()}
    torch.save(low, tmp_path / "it.pt")
    loads_exactly(tmp_path / "it.pt", {k: v.float() for k, v in low.items()})


def test_legacy_pickle(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "it.pt", _use_new_zipfile_serialization=False)
    loads_exactly(tmp_path / "it.pt", weights)


def test_what_was_unwrapped_is_said_in_one_line(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"state_dict": behind("module.")(weights)}, tmp_path / "it.pt")
    logging.disable(logging.NOTSET)
    with caplog.at_level(logging.INFO, "sclip_lab"):
        load_backbone(NAME, checkpoint=tmp_path / "it.pt", device="cpu", quick_gelu=False)
    lines = [r.getMessage() for r in caplog.records if "it.pt" in r.getMessage()]
    assert len(lines) == 1
    assert "'state_dict'" in lines[0]
    assert "'module.'" in lines[0]


def test_two_sets_of_weights_are_a_question(weights: Weights, tmp_path: Path) -> None:
    ema = {k: v + 0.01 if v.is_floating_point() else v for k, v in weights.items()}
    path = tmp_path / "it.pt"
    torch.save({"state_dict": weights, "ema": ema}, path)
    with pytest.raises(LabError, match=r"several sets of weights: state_dict, ema.*weights=ema"):
        load_backbone(NAME, checkpoint=path, device="cpu")
    loads_exactly(path, ema, weights="ema")
    loads_exactly(path, weights, weights="state_dict")
    with pytest.raises(LabError, match="'emma'; did you mean ema"):
        load_backbone(NAME, checkpoint=path, weights="emma", device="cpu")


def test_networks_beside_each_other_in_names(weights: Weights, tmp_path: Path) -> None:
    ema = {k: v + 0.01 if v.is_floating_point() else v for k, v in weights.items()}
    path = tmp_path / "it.pt"
    both = behind("student.")(weights) | behind("teacher.")(ema)
    torch.save({"state_dict": both | {"loss.center": torch.ones(3)}}, path)
    with pytest.raises(LabError, match=r"backbone\.weights=student or teacher takes the weights"):
        load_backbone(NAME, checkpoint=path, device="cpu")
    with pytest.raises(LabError, match=r"backbone\.weights=student or teacher takes the weights"):
        load_vit("vit_tiny_patch16_224", checkpoint=path, device="cpu")
    loads_exactly(path, ema, weights="teacher")


def test_a_part_of_the_names_can_be_chosen(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "it.pt"
    torch.save({"state_dict": behind("clip.")(weights) | {"head.weight": torch.ones(3)}}, path)
    with pytest.raises(LabError, match=r"backbone\.weights=clip takes the weights of that"):
        load_backbone(NAME, checkpoint=path, device="cpu")
    loads_exactly(path, weights, weights="clip")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: {k: v.to(torch.int8) for k, v in w.items()}, "int8, as in quantised networks"),
        (
            lambda w: {k: v for k, v in w.items() if not k.startswith("visual.")},
            "holds weights of a text tower and none of an image tower",
        ),
    ],
)
def test_no_network_of_images(
    change: Callable[[Weights], Weights], says: str, weights: Weights, tmp_path: Path
) -> None:
    torch.save(change(weights), tmp_path / "it.pt")
    with pytest.raises(LabError, match=rf"it\.pt.*{says}"):
        load_backbone(NAME, checkpoint=tmp_path / "it.pt", device="cpu")


@pytest.mark.parametrize("inside", ["visual.", ""])
def test_the_image_tower_alone(inside: str, weights: Weights, tmp_path: Path) -> None:
    tower = {
        inside + k.removeprefix("visual."): v for k, v in weights.items() if k.startswith("visual.")
    }
    torch.save(tower, tmp_path / "it.pt")
    backbone = loads_exactly(tmp_path / "it.pt", weights)
    assert not backbone.has_text
    with pytest.raises(LabError, match="has no text tower"):
        backbone.encode_text(["a cat"])


def test_another_image_size(weights: Weights, tmp_path: Path) -> None:
    larger = weights | {"visual.positional_embedding": torch.randn(1 + 36, 64)}
    torch.save(larger, tmp_path / "it.pt")
    model = open_clip.create_model(NAME, str(tmp_path / "it.pt")).eval()
    with torch.inference_mode():
        expected = model.encode_image(images())
    backbone = load_backbone(NAME, checkpoint=tmp_path / "it.pt", device="cpu")
    assert relative_error(image_of(backbone), expected) < EXACT


def test_plain_layout_into_custom_text(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from open_clip import factory

    config = {**factory._MODEL_CONFIGS[NAME], "custom_text": True}
    monkeypatch.setitem(factory._MODEL_CONFIGS, NAME, config)
    torch.save(weights, tmp_path / "it.pt")
    model = open_clip.create_model(NAME, str(tmp_path / "it.pt")).eval()
    with torch.inference_mode():
        expected = model.encode_image(images())
        text = model.encode_text(open_clip.tokenize(["a cat"]))
    backbone = load_backbone(NAME, checkpoint=tmp_path / "it.pt", device="cpu")
    assert relative_error(image_of(backbone), expected) < EXACT
    assert relative_error(backbone.encode_text(["a cat"]), text) < EXACT


def test_a_name_that_would_fit_is_offered(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "it.pt")
    with pytest.raises(LabError, match=r"does not fit architecture ViT-B-32.*sizes are those of"):
        load_backbone("ViT-B-32", checkpoint=tmp_path / "it.pt", device="cpu")
    with pytest.raises(LabError, match=r"name the architecture.*Its shapes fit ViT-B-16"):
        load_backbone(checkpoint=tmp_path / "it.pt", device="cpu")


def doubts(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    caplog.clear()
    return [line for line in lines if "as its name says" in line]


def test_an_activation_that_only_the_name_says(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.disable(logging.NOTSET)
    path = tmp_path / "it.pt"
    torch.save(weights, path)
    for name, other, stated in (
        (f"{NAME}-quickgelu", f"was GELU, use backbone={NAME};", True),
        (NAME, f"was QuickGELU, use backbone={NAME}-quickgelu;", False),
    ):
        load_backbone(name, checkpoint=path, device="cpu", quick_gelu=stated)
        assert not doubts(caplog)
        for _ in range(2):  # and only once
            load_backbone(name, checkpoint=path, device="cpu")
        [line] = doubts(caplog)
        assert other in line
        assert f"backbone.quick_gelu={str(stated).lower()}" in line
        assert "it.pt" in line
    torch.save(toy.openai(weights), tmp_path / "openai.pt")
    load_backbone(f"{NAME}-quickgelu", checkpoint=tmp_path / "openai.pt", device="cpu")
    assert not doubts(caplog)


def test_what_open_clip_notes_beside_the_weights_counts(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.disable(logging.NOTSET)
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(weights, folder / "open_clip_model.safetensors")
    notes = {
        "model_cfg": {"quick_gelu": True},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.4, 0.4, 0.4]},
    }
    config = folder / "open_clip_config.json"
    config.write_text(json.dumps(notes))
    for path in (folder, folder / "open_clip_model.safetensors"):
        with pytest.raises(LabError, match=rf"computes GELU.*use backbone={NAME}-quickgelu"):
            load_backbone(NAME, checkpoint=path, device="cpu")
        backbone = load_backbone(f"{NAME}-quickgelu", checkpoint=path, device="cpu")
        assert backbone.mean == (127.5, 127.5, 127.5)
        assert backbone.std == (102.0, 102.0, 102.0)
    assert not doubts(caplog)
    for wrong in ({"model_cfg": 3}, {"preprocess_cfg": {"mean": [1, 2]}}, []):
        config.write_text(json.dumps(wrong))
        with pytest.raises(LabError, match=r"open_clip_config\.json"):
            load_backbone(NAME, checkpoint=folder, device="cpu")


def sharded(folder: Path, weights: Weights) -> None:
    names = sorted(weights)
    placed = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in part}, folder / shard)
        placed |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def test_shards(weights: Weights, tmp_path: Path) -> None:
    sharded(tmp_path, weights)
    (tmp_path / "published.pt").unlink()
    loads_exactly(tmp_path, weights)
    loads_exactly(tmp_path / "model.safetensors.index.json", weights)
    with pytest.raises(LabError, match=r"one of 2 shards; give their index model\.safe"):
        load_backbone(NAME, checkpoint=tmp_path / "model-00001-of-00002.safetensors", device="cpu")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(LabError, match=r"its shard model-00002-of-00002\.safetensors is missing"):
        load_backbone(NAME, checkpoint=tmp_path, device="cpu")


def test_folders(weights: Weights, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(LabError, match="is a folder without weights"):
        load_backbone(NAME, checkpoint=folder, device="cpu")
    save_file(weights, folder / "model.safetensors")
    loads_exactly(folder, weights)
    for name in ("a.pt", "b.pt"):
        torch.save(weights, folder / name)
    loads_exactly(folder, weights)  # the known name counts
    (folder / "model.safetensors").unlink()
    with pytest.raises(LabError, match=r"several files of weights \(a\.pt, b\.pt\); name one"):
        load_backbone(NAME, checkpoint=folder, device="cpu")


# What is refused: how it is made, and what the one line says.
def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dangling link": (dangling, "is a link to a file that does not exist"),
    "empty": (Path.touch, "it is empty"),
    "text": (lambda p: p.write_text("weights are at ..."), "it is text"),
    "html": (lambda p: p.write_text("<!DOCTYPE html><p>404"), "it is an HTML page"),
    "json": (lambda p: p.write_text('{"a": 1}'), "it is JSON"),
    "git lfs": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"),
        "a pointer of Git LFS",
    ),
    "npz": (
        lambda p: np.savez(p.open("wb"), a=np.ones(3)),
        r"it is a zip of other files \(a\.npy\)",
    ),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(9)), "it is packed by gzip"),
    "picture": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(9)), "it is a picture"),
    "zeros": (lambda p: p.write_bytes(bytes(4096)), "it is filled with zeros"),
    "a download that broke off": (
        lambda p: (torch.save({"a": torch.ones(999)}, p), p.write_bytes(p.read_bytes()[:900])),
        "it is a damaged zip",
    ),
    "loralib": (lambda p: torch.save({"a.lora_A": torch.ones(2)}, p), "merge them first"),
    "lora": (
        lambda p: torch.save({"base_model.model.a.lora_A.weight": torch.ones(2)}, p),
        "merge them first",
    ),
    "namespace": (
        lambda p: torch.save({"args": argparse.Namespace(lr=1), "model": {"a": torch.ones(1)}}, p),
        r"it holds a Python object \(argparse\.Namespace\)",
    ),
    "module": (lambda p: torch.save(nn.Linear(2, 2), p), "it holds a Python object"),
    "numpy scalar": (
        lambda p: torch.save({"best": np.float64(3), "model": {"a": torch.ones(1)}}, p),
        "it holds a Python object",
    ),
    "nothing": (lambda p: torch.save({"epoch": 3}, p), "holds no state dict"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_refused(form: str, tmp_path: Path) -> None:
    make, says = REFUSED[form]
    make(tmp_path / "it.pt")
    with pytest.raises(LabError, match=rf"it\.pt.*{says}") as error:
        load_backbone("ViT-S-32", checkpoint=tmp_path / "it.pt", device="cpu")
    assert "\n" not in str(error.value)


SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 56}


def test_dinov2_with_registers_of_facebook(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    theirs = {
        "cls_token": torch.randn(1, 1, 64),
        "register_tokens": torch.randn(1, 4, 64),
        "mask_token": torch.zeros(1, 64),
        "pos_embed": torch.randn(1, 17, 64),
    }
    reference = timm.create_model(name, num_classes=0, **SMALL)
    theirs |= {
        # Weights as large as 1 amplify rounding: timm itself is then 6e-6 off its float64.
        k: 0.2 * torch.randn_like(v)
        for k, v in reference.state_dict().items()
        if k not in ("cls_token", "reg_token", "pos_embed")
    }
    torch.save(theirs, tmp_path / "it.pth")
    reference.load_state_dict(vision_transformer.checkpoint_filter_fn(dict(theirs), reference))
    backbone = load_vit(
        "dinov2_vits14_reg", checkpoint=tmp_path / "it.pth", device="cpu", options=SMALL
    )
    expected = reference.eval()(images(56)).detach()
    assert relative_error(image_of(backbone, 56), expected) < EXACT


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_dino_of_training(weights: str, tmp_path: Path) -> None:
    small = SMALL | {"img_size": 64}
    reference = timm.create_model("vit_small_patch16_224", num_classes=0, **small)
    sets = {}
    for name in ("student", "teacher"):
        trained = {k: torch.randn_like(v) for k, v in reference.state_dict().items()}
        sets[name] = trained
    wrapped = {
        name: {f"module.backbone.{k}": v for k, v in trained.items()}
        | {"module.head.mlp.0.weight": torch.ones(3)}
        for name, trained in sets.items()
    }
    torch.save({**wrapped, "epoch": 100}, tmp_path / "it.pth")
    options = {"device": "cpu", "options": small}
    with pytest.raises(LabError, match="several sets of weights: student, teacher"):
        load_vit("dino_vits16", checkpoint=tmp_path / "it.pth", **options)
    backbone = load_vit("dino_vits16", checkpoint=tmp_path / "it.pth", weights=weights, **options)
    reference.load_state_dict(sets[weights])
    expected = reference.eval()(images()).detach()
    assert relative_error(image_of(backbone), expected) < EXACT


@pytest.mark.parametrize("name", ["qwen3_vit_88m", "qwen3_vit_88m_enc"])
def test_a_language_models_file_gives_its_encoder(name: str, tmp_path: Path) -> None:
    """Qwen3-VL's own names, two frames to a patch, and the language model's weights beside them."""
    options = {"depth": 2, "embed_dim": 32, "num_heads": 2, "pos_embed_grid_size": 4}
    reference = timm.create_model(name, **options)
    theirs = {"model.language_model.norm.weight": torch.ones(8)}
    for key, value in reference.state_dict().items():
        key = "model.visual." + key.removeprefix("encoder.")
        if ".patch_embed.proj.weight" in key:
            value = torch.stack([0.25 * value, 0.75 * value], dim=2)
        elif key.endswith("pos_embed"):
            key, value = f"{key}.weight", value[0]
        theirs[key.replace("fc1", "linear_fc1").replace("fc2", "linear_fc2")] = value.contiguous()
    save_file(theirs, tmp_path / "model.safetensors")
    loaded = load_vit(name, checkpoint=tmp_path / "model.safetensors", options=options)
    for key, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[key], atol=1e-6, rtol=0)


def test_sam_of_facebook(tmp_path: Path) -> None:
    small = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64, "global_attn_indexes": ()}
    reference = timm.create_model("samvit_base_patch16", num_classes=0, **small)
    ours = {k: torch.randn_like(v) for k, v in reference.state_dict().items()}
    theirs = {f"image_encoder.{k.replace('mlp.fc', 'mlp.lin')}": v for k, v in ours.items()}
    theirs["mask_decoder.x"] = torch.ones(2)
    torch.save(theirs, tmp_path / "it.pth")
    reference.load_state_dict(vision_transformer_sam.checkpoint_filter_fn(dict(theirs), reference))
    guide = load_guidance("sam_vit_b", checkpoint=tmp_path / "it.pth", device="cpu", options=small)
    [expected] = reference.eval().forward_intermediates(
        images(), indices=[1], norm=True, intermediates_only=True
    )
    assert relative_error(guide.features(images()), expected.detach()) < 5 * EXACT


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("kind", ["ViTModel", "Dinov2Model", "Dinov2WithRegistersModel"])
def test_vits_of_transformers(kind: str, as_folder: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="an optional package")
    registers = "Registers" in kind
    patch = 16 if kind == "ViTModel" else 14
    config = getattr(transformers, kind.replace("Model", "Config"))(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
        image_size=4 * patch, patch_size=patch, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path / "folder"
    if as_folder:
        model.save_pretrained(path)
    else:
        path = tmp_path / "it.pt"
        torch.save(model.state_dict(), path)
    name = {16: "vit_small_patch16_224", 14: "vit_small_patch14_dinov2"}[patch]
    name = "vit_small_patch14_reg4_dinov2" if registers else name
    backbone = load_vit(
        name, checkpoint=path, device="cpu", options=SMALL | {"img_size": 4 * patch}
    )
    side = 4 * patch
    with torch.inference_mode():
        tokens = model(images(side)).last_hidden_state
    ours = toy.encoded(backbone, images(side), load_attention("vanilla"))
    prefix = 5 if registers else 1
    assert relative_error(ours.patches.flatten(1, 2), tokens[:, prefix:]) < 5 * EXACT
    assert relative_error(ours.class_embedding, tokens[:, 0]) < 5 * EXACT


CLIP_PARTS = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 256,
}


def tiny_clip(**vision: Any) -> tuple[Any, dict[str, Any]]:
    """A CLIP of transformers, and the same architecture in open_clip's words."""
    transformers = pytest.importorskip("transformers", reason="an optional package")
    text = {**CLIP_PARTS, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406}
    vision = {**CLIP_PARTS, "image_size": 64, "patch_size": 16, **vision}
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)
    )
    sizes = {"width": 64, "layers": 2}
    architecture = {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "head_width": 32, **sizes},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 2, **sizes},
    }
    return model.eval(), architecture


def test_clip_of_transformers(tmp_path: Path) -> None:
    model, architecture = tiny_clip()
    model.save_pretrained(tmp_path / "folder", max_shard_size="2MB")
    backbone = load_backbone(
        architecture=architecture, checkpoint=tmp_path / "folder", device="cpu"
    )
    ids = backbone.tokenize(["a photo of a cat", "sky"])
    with torch.inference_mode():
        output = model(pixel_values=images(), input_ids=ids)
    vanilla = image_of(backbone)
    unit = torch.nn.functional.normalize
    assert relative_error(unit(vanilla, dim=-1), output.image_embeds) < 5 * EXACT
    texts = backbone.encode_text(["a photo of a cat", "sky"])
    assert relative_error(unit(texts, dim=-1), output.text_embeds) < 5 * EXACT


def test_siglip_of_transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="an optional package")
    text = {**CLIP_PARTS, "vocab_size": 32000, "max_position_embeddings": 64}
    vision = {**CLIP_PARTS, "image_size": 64, "patch_size": 16, "hidden_act": "gelu"}
    text["hidden_act"] = "gelu"
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    model = transformers.SiglipModel(config).eval()
    torch.save(model.state_dict(), tmp_path / "it.pt")
    name = "ViT-B-16-SigLIP"
    shrink(monkeypatch, name)
    from open_clip import factory

    factory._MODEL_CONFIGS[name]["text_cfg"] |= {"layers": 2}
    factory._MODEL_CONFIGS[name]["text_cfg"].pop("act_kwargs", None)
    backbone = load_backbone(name, checkpoint=tmp_path / "it.pt", device="cpu")
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=images())
        expected = getattr(expected, "pooler_output", expected)
        ids = torch.randint(2, 999, (3, 64))
        text_expected = model.get_text_features(input_ids=ids)
        text_expected = getattr(text_expected, "pooler_output", text_expected)
        ours = backbone.model.encode_text(ids)
    assert relative_error(image_of(backbone), expected) < 5 * EXACT
    assert relative_error(ours, text_expected) < 5 * EXACT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_attention_heads": 4}, r"has 4 heads.*vit_small.* has 2"),
        ({"hidden_act": "relu"}, r"activation relu.*computes GELU"),
    ],
)
def test_a_folder_that_says_otherwise_is_refused(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="an optional package")
    sizes = {**CLIP_PARTS, "image_size": 56, "patch_size": 14}
    config = transformers.Dinov2Config(**sizes, mlp_ratio=4)
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "folder")
    file = tmp_path / "folder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    for load in (load_vit, load_guidance):
        with pytest.raises(LabError, match=says):
            load(
                "vit_small_patch14_dinov2",
                checkpoint=tmp_path / "folder",
                device="cpu",
                options=SMALL,
            )


def test_statistics_of_a_users_own_timm_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.disable(logging.NOTSET)
    small = SMALL | {"img_size": 64}
    name, folder = "vit_small_patch16_224", tmp_path / "folder"
    folder.mkdir()
    reference = timm.create_model(name, num_classes=0, **small)
    torch.save(reference.state_dict(), folder / "pytorch_model.bin")

    def warned(name: str, **options: Any) -> tuple[Backbone, bool]:
        caplog.clear()
        backbone = load_vit(name, checkpoint=folder, device="cpu", options=small, **options)
        return backbone, "several channel statistics" in caplog.text

    # Those of ImageNet for DINO's weights, 0.5 for timm's own.
    assert warned(name)[1]
    assert "backbone.mean and backbone.std decide" in caplog.text
    assert warned(name, role="guidance")[1]
    assert f"guidance {name}" in caplog.text
    assert "backbone" not in caplog.text  # guidance has no keys for its statistics
    assert warned(name, mean=[1, 2, 3], std=[1, 1, 1])[1] is False
    backbone, has_warned = warned(f"{name}.dino")
    assert not has_warned
    assert backbone.mean == pytest.approx((123.675, 116.28, 103.53))
    noted = {"mean": [0.25, 0.5, 0.75], "std": [0.5, 0.5, 0.5]}
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": noted}))
    backbone, has_warned = warned(name)
    assert not has_warned
    assert backbone.mean == (63.75, 127.5, 191.25)
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": noted | {"std": [1]}}))
    with pytest.raises(LabError, match=r"config\.json: pretrained_cfg\.std"):
        warned(name)


@pytest.mark.parametrize("kind", ["CLIPModel", "ViTModel"])
def test_the_epsilon_of_a_folder_counts_in_every_norm(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="an optional package")
    torch.manual_seed(0)
    if kind == "ViTModel":
        parts = {**CLIP_PARTS, "image_size": 64, "patch_size": 16, "layer_norm_eps": 1e-2}
        model = transformers.ViTModel(transformers.ViTConfig(**parts), add_pooling_layer=False)
        model.eval().save_pretrained(tmp_path)
        backbone = load_vit(
            "vit_small_patch16_224", checkpoint=tmp_path, device="cpu",
            options=SMALL | {"img_size": 64},
        )  # fmt: skip
        expected = model(images()).last_hidden_state[:, 0]
    else:
        model, architecture = tiny_clip(layer_norm_eps=1e-2)
        model.save_pretrained(tmp_path)
        backbone = load_backbone(architecture=architecture, checkpoint=tmp_path, device="cpu")
        vision = model.vision_model(images()).pooler_output
        expected = model.visual_projection(vision)
    assert relative_error(image_of(backbone), expected.detach()) < 5 * EXACT


def test_another_size_of_patches_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("vit_small_patch32_224", **SMALL | {"img_size": 64})
    torch.save(model.state_dict(), tmp_path / "it.pt")
    with pytest.raises(LabError, match=r"patches of 32x32 pixels, .* vit_small_patch16_224 of 16x"):
        load_vit(
            "vit_small_patch16_224", checkpoint=tmp_path / "it.pt", device="cpu",
            options=SMALL | {"img_size": 64},
        )  # fmt: skip


def test_a_layout_without_biases_of_keys_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="an optional package")
    parts = {**CLIP_PARTS, "image_size": 64, "patch_size": 16}
    transformers.BeitModel(transformers.BeitConfig(**parts)).save_pretrained(tmp_path)
    with pytest.raises(LabError, match="none of key or value, as in transformers' BEiT"):
        load_vit("vit_small_patch16_224", checkpoint=tmp_path, device="cpu", options=SMALL)


def test_few_tensors_beside_the_weights_are_no_choice(weights: Weights, tmp_path: Path) -> None:
    beside = {"state_dict": weights, "dino_loss": {"center": torch.ones(3)}}
    torch.save(beside, tmp_path / "it.pt")
    loads_exactly(tmp_path / "it.pt", weights)
