"""The contract of every file in conf/attention, and of the builder behind them.

Walks the directory: a new yaml is tested the moment it exists.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sclip_lab import testing
from sclip_lab.attention.variant import Variant, _warn_that_prior_is_ignored, build
from sclip_lab.config.registry import conf_dir, load_attention, names
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.dense_features import dense_features
from tests.conftest import ARCHITECTURE
from tests.second_network import seen
from tests.variants import loaded_variant


def truth(attention: Variant, backbone: Backbone, images: Tensor) -> Tensor | None:
    """Ground truth for variants that read it."""
    return testing.patch_labels(backbone, images) if "labels" in attention.uses else None


ALL = names("attention")
KINDS = ("prior", "mix", "repair", "entry", "hidden")
PARTS = [(kind, part) for kind in KINDS for part in names(f"attention/{kind}") if part != "none"]
TEXT = torch.nn.functional.normalize(torch.randn(5, 24, generator=torch.Generator().manual_seed(3)))
VANILLA = "sclip_lab.attention.vanilla.vanilla"
# Their weights come from elsewhere, so that a prior has no scores to be added to.
WITHOUT_SCORES = (
    "maskclip",
    "cdam",
    "rfclip",
    "rfclip_refocus",
    "proxyclip",
    "gla",
    "gla_proxy",
    "fsa_proxy",
    "between",
    "blind",
    "composed",
    "entropy",
    "oracle",
    "set_mass",
    "shuffled",
    "uniform",
)
# A network of one block has none before it.
READS_BLOCKS_BEFORE = {"cliper", "cliper_level", "dih", "scclip", "sfp", "similarity"}
CSA = "sclip_lab.attention.correlative.correlative"


@pytest.fixture(scope="session")
def projection_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("learned") / "projection.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file({"projection": torch.randn(64, 64, generator=generator) / 8}, path)
    return str(path)


def overrides(name: str, projection_file: str) -> dict[str, str]:
    return {"projection_file": projection_file} if name == "csa_learned" else {}


def loaded(name: str, projection_file: str) -> Variant:
    return loaded_variant(name, **overrides(name, projection_file))


@pytest.mark.parametrize("name", ALL)
def test_contract(name: str, projection_file: str) -> None:
    attention = loaded(name, projection_file)
    assert attention.name == name
    assert attention.key == load_attention(name, **overrides(name, projection_file)).key
    testing.check_variant(attention)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_small_depths(depth: int, images: Tensor, projection_file: str) -> None:
    architecture = copy.deepcopy(ARCHITECTURE)
    architecture["vision_cfg"]["layers"] = depth
    small = load_backbone(architecture=architecture, seed=0, device="cpu")
    for name in ALL:
        attention = loaded(name, projection_file)
        labels = truth(attention, small, images)
        inputs = {"text": TEXT, "guidance": seen(attention), "labels": labels}
        if depth == 1 and name in READS_BLOCKS_BEFORE:
            with pytest.raises(LabError, match=r"has no block before it|no earlier attention"):
                dense_features(small, images, attention, **inputs)
        else:
            assert dense_features(small, images, attention, **inputs).isfinite().all(), name


@pytest.mark.parametrize("name", ALL)
def test_first_line_says_what_it_is(name: str) -> None:
    text = (conf_dir() / "attention" / f"{name}.yaml").read_text()
    assert text.startswith("# ")


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("vanilla", "composed")])
def test_differs_from_vanilla(
    name: str, backbone: Backbone, images: Tensor, projection_file: str
) -> None:
    expected = dense_features(backbone, images, load_attention("vanilla"))
    attention = loaded(name, projection_file)
    labels = truth(attention, backbone, images)
    ours = dense_features(
        backbone, images, attention, text=TEXT, guidance=seen(attention), labels=labels
    )
    assert (ours - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_a_prior_changes_the_features_or_is_warned_of(
    name: str,
    backbone: Backbone,
    images: Tensor,
    projection_file: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _warn_that_prior_is_ignored.cache_clear()
    narrow = {"_target_": "sclip_lab.attention.prior.gaussian", "sigma": 1.0}
    config = loaded(name, projection_file).config
    without, ours = (
        dense_features(
            backbone,
            images,
            attention,
            text=TEXT,
            guidance=seen(attention),
            labels=truth(attention, backbone, images),
        )
        for prior in (None, narrow)
        for attention in [build({**config, "prior": prior}, name)]
    )
    changed = not torch.equal(ours, without)
    assert changed == (name not in WITHOUT_SCORES)
    assert changed != (f"'{name}': its prior changes nothing" in caplog.text)


@pytest.mark.parametrize(("kind", "part"), PARTS)
def test_parts_go_with_a_plain_variant(
    kind: str, part: str, backbone: Backbone, images: Tensor
) -> None:
    plain = load_attention("csa")
    changed = load_attention("csa", **{kind: part})
    assert changed.key != plain.key
    features = dense_features(backbone, images, changed, text=TEXT, guidance=seen(changed))
    assert features.shape == (2, 6, 8, backbone.embed_dim)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("mlp", [True, False])
def test_tail_by_hand(residual: bool, mlp: bool, backbone: Backbone, images: Tensor) -> None:
    block = backbone.blocks[-1]
    attention = load_attention("csa_k", residual=residual, mlp=mlp)
    tokens = backbone.embed(images)
    for plain in backbone.blocks[:-1]:
        tokens = plain.plain(tokens)
    normed = block.norm(tokens)
    k, v = block.project(normed, "key"), block.project(normed, "value")
    after = block.output((k @ k.mT * block.scale).softmax(-1), v)
    if residual:
        after = after + tokens
    if mlp:
        after = after + block.mlp(after)
    [(_, state, _)] = tree.leaves(backbone.blocks, backbone.embed(images), (6, 8), [attention])
    torch.testing.assert_close(state.tokens, after, atol=1e-5, rtol=0)


def test_parallel_stream_by_hand(backbone: Backbone, images: Tensor) -> None:
    attention = load_attention("csa_v", stream="parallel", layers="last 2", mlp=False)
    stream = backbone.embed(images)
    for block in backbone.blocks[:-2]:
        stream = block.plain(stream)
    dense = stream
    for block in backbone.blocks[-2:]:
        v = block.project(block.norm(stream), "value")
        dense = dense + block.output((v @ v.mT * block.scale).softmax(-1), v)
        stream = block.plain(stream)
    [(_, state, _)] = tree.leaves(backbone.blocks, backbone.embed(images), (6, 8), [attention])
    torch.testing.assert_close(state.readout, dense, atol=1e-5, rtol=0)
    torch.testing.assert_close(state.tokens, stream, atol=1e-5, rtol=0)


def test_early_layer_by_hand(backbone: Backbone, images: Tensor) -> None:
    stream, maps = backbone.embed(images), []
    for block in backbone.blocks:
        normed = block.norm(stream)
        q, k = block.project(normed, "query"), block.project(normed, "key")
        maps.append((q @ k.mT * block.scale).softmax(-1))
        before, stream = stream, block.plain(stream)
    block = backbone.blocks[-1]
    after = before + block.output(maps[1], block.project(block.norm(before), "value"))
    after = after + block.mlp(after)
    attention = load_attention("early", source=1)
    [(_, state, _)] = tree.leaves(backbone.blocks, backbone.embed(images), (6, 8), [attention])
    torch.testing.assert_close(state.tokens, after, atol=1e-5, rtol=0)


def test_all_blocks_vanilla_is_the_network_itself(backbone: Backbone, images: Tensor) -> None:
    everywhere = load_attention("vanilla", layers="last 4")
    tokens = backbone.embed(images)
    for block in backbone.blocks:
        tokens = block.plain(tokens)
    [(_, state, _)] = tree.leaves(backbone.blocks, backbone.embed(images), (6, 8), [everywhere])
    torch.testing.assert_close(state.tokens, tokens, atol=1e-5, rtol=0)


def test_key_is_the_content() -> None:
    one = build({"_target_": CSA}, "one")
    two = build({"_target_": CSA, "temperature": 1.0, "projections": ("query", "key")}, "two")
    assert one.key == two.key
    assert one.key == load_attention("csa").key
    assert build({"_target_": CSA, "name": "three"}).name == "three"
    assert build({"_target_": CSA}).name == "correlative"
    changes: list[dict[str, Any]] = [
        {"temperature": 2.0},
        {"layers": [-2]},
        {"residual": False},
        {"mlp": False},
        {"class_token": False},
        {"combine": "mean"},
        {"prior": {"_target_": "sclip_lab.attention.prior.gaussian"}},
        {"prior": {"_target_": "sclip_lab.attention.prior.gaussian", "sigma": 1.0}},
    ]
    keys = {build({"_target_": CSA, **change}).key for change in changes}
    assert len(keys | {one.key}) == len(changes) + 1


def test_layers_are_not_part_of_the_edit() -> None:
    one, two = load_attention("csa"), load_attention("csa", layers=[0, 1])
    assert one.key != two.key
    assert one.edit_key == two.edit_key
    # Defaults of a part count as written out.
    prior = {"_target_": "sclip_lab.attention.prior.gaussian"}
    assert load_attention("csa", prior=prior).key == load_attention("csa", prior="gaussian").key


def test_a_share_of_the_depth_has_one_spelling() -> None:
    early = [load_attention("early", source=source).key for source in ("3/12", 0.25, "1/4", "6/24")]
    assert len(set(early)) == 1
    assert load_attention("early", source="4/12").key not in early
    assert load_attention("early", source=3).key not in early  # an index is no share
    mixed = [
        load_attention("csa", mix={"_target_": "sclip_lab.attention.mix.middle", "layers": layers})
        for layers in (["6/12", 0.75], ["1/2", "3/4"])
    ]
    assert mixed[0].key == mixed[1].key


def test_a_files_content_is_the_key_not_its_path(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.safetensors") for name in "abc"]
    for path, value in zip(paths, (1.0, 1.0, 2.0), strict=True):
        save_file({"projection": value * torch.eye(64)}, path)
    a, b, c = (load_attention("csa_learned", projection_file=path).key for path in paths)
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "has no _target_"),
        ({"_target_": CSA, "temprature": 1.0}, "did you mean temperature"),
        ({"_target_": CSA, "layer": [-1]}, "did you mean layers"),
        ({"_target_": CSA, "residual": "no"}, "residual: 'no' must be true or false"),
        ({"_target_": CSA, "stream": "paralel"}, "did you mean parallel"),
        ({"_target_": CSA + "s"}, "did you mean correlative"),
        ({"_target_": "sclip_lab.attention.missing.f"}, "no module 'sclip_lab.attention.missing'"),
        ({"_target_": "f"}, "attention 'f': _target_ 'f': not the dotted path"),
        ({"_target_": CSA, "prior": "gaussian"}, "needs a _target_"),
        ({"_target_": CSA, "prior": {"sigma": 1}}, "needs a _target_"),
        (
            {"_target_": CSA, "prior": {"_target_": "sclip_lab.attention.prior.gaussian", "s": 1}},
            "unknown parameter 's'",
        ),
        (
            {"_target_": "sclip_lab.attention.projected.learned"},
            "learned needs a value for projection_file",
        ),
    ],
)
def test_build_refuses(config: dict[str, Any], says: str) -> None:
    with pytest.raises(LabError, match=says):
        build(config)


def test_yaml_with_a_value_to_fill_in() -> None:
    with pytest.raises(
        LabError, match="attention 'csa_learned': learned needs a value for projection_file"
    ):
        load_attention("csa_learned")


@pytest.mark.parametrize("layers", [[4], [-5], [1.5], "last 5", []], ids=str)
def test_layer_out_of_range(layers: Any, backbone: Backbone, images: Tensor) -> None:
    attention = load_attention("csa", layers=layers)
    with pytest.raises(LabError, match=r"attention 'csa': layers? .*(range|empty)"):
        dense_features(backbone, images, attention)


def test_early_source_must_be_earlier(backbone: Backbone, images: Tensor) -> None:
    with pytest.raises(
        LabError, match="layer -1 is block 3; block 1, which is rewritten, can read"
    ):
        dense_features(backbone, images, load_attention("early", layers=[1], source=-1))


def test_block_edit_takes_no_tail_of_its_own() -> None:
    target = "sclip_lab.attention.scclip.scclip"
    with pytest.raises(LabError, match="mlp, residual cannot be set: scclip replaces the whole"):
        build({"_target_": target, "residual": False, "mlp": False})


def test_knows_where_its_code_is() -> None:
    attention = load_attention("csa", prior="gaussian", mix="middle")
    assert attention.modules == (
        "sclip_lab.attention.correlative",
        "sclip_lab.attention.mix",
        "sclip_lab.attention.prior",
    )
