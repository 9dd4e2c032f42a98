"""Towers without class token against open_clip's and timm's own calls, and what needs one."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from sclip_lab import testing
from sclip_lab.attention.prior import gaussian
from sclip_lab.attention.variant import Variant
from sclip_lab.config.registry import load_attention, load_group, names
from sclip_lab.core.errors import LabError
from sclip_lab.diagnostics.observation import Observation
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.network.timm_block import TimmBlock, check_block
from sclip_lab.segmentation import tree
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.dense_features import dense_features
from sclip_lab.segmentation.encoded import encode
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.refinements.cliptrase import cliptrase
from tests import siglip, toy
from tests.second_network import seen

pytestmark = pytest.mark.usefixtures("quiet")

NEED_A_CLASS_TOKEN = {"scclip", "sfp", "dih"}
POOLS: dict[str, dict[str, str]] = {
    "map": {},
    "mean and norm": {"timm_pool": "avg"},
    "mean and projection": {"timm_pool": "avg", "timm_proj": "linear"},
    "map and mlp": {"timm_proj": "mlp"},
}


@pytest.fixture(scope="module")
def headless() -> Backbone:
    return siglip.network()


def photos(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def both(
    backbone: Backbone, images: Tensor, rule: str | None = None, variant: Variant | None = None
) -> tuple[Tensor, Tensor]:
    """Patch and image embeddings, by default of the network as trained."""
    [(_, one)] = encode(backbone, images, [variant or load_attention("vanilla")], rule)
    return one.patches, one.class_embedding


@pytest.mark.parametrize("pool", POOLS)
def test_image_embedding_equals_encode_image(pool: str) -> None:
    backbone = siglip.network(siglip.architecture(**POOLS[pool]))
    assert not backbone.has_class_token
    expected = backbone.model.encode_image(photos())
    for layers in ([-1], "last 4"):  # fused blocks, and all of them rewritten
        ours = both(backbone, photos(), variant=load_attention("vanilla", layers=layers))[1]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert backbone.embed_dim == expected.shape[1]


@pytest.mark.parametrize("pool", POOLS)
def test_a_patch_embedding_is_the_pooling_of_one_patch(pool: str) -> None:
    backbone = siglip.network(siglip.architecture(**POOLS[pool]))
    patches, image = both(backbone, photos(16, 16))
    assert patches.shape == (2, 1, 1, 64)
    torch.testing.assert_close(patches[:, 0, 0], image, atol=1e-6, rtol=0)
    # The same of many patches: timm's own pooling of each, as an image of one.
    visual, tokens = backbone.model.visual, torch.randn(2, 5, 64)
    expected = visual.head(visual.trunk.forward_head(visual.trunk.norm(tokens.view(10, 1, 64))))
    torch.testing.assert_close(backbone.head(tokens).view(10, 64), expected, atol=1e-5, rtol=0)


def test_position_embedding_equals_timms(headless: Backbone) -> None:
    dynamic = VisionTransformer(**siglip.TOWER, num_classes=0, dynamic_img_size=True).eval()
    dynamic.load_state_dict(headless.model.visual.trunk.state_dict())
    with torch.inference_mode():
        expected = dynamic(photos(96, 128))
    ours = both(headless, photos(96, 128), "bicubic_antialias")[1]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_block_equals_timms(headless: Backbone, dtype: torch.dtype, atol: float) -> None:
    modules = copy.deepcopy(headless.model.visual.trunk.blocks).to(dtype)
    tokens = torch.randn(2, 13, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    for module in modules:
        block = TimmBlock(module, 0, 1, prefix=0)
        torch.testing.assert_close(block.plain(tokens), module(tokens), atol=atol, rtol=0)
        normed = block.norm(tokens)
        query, key, value = (block.project(normed, n) for n in ("query", "key", "value"))
        after = tokens + block.output((query @ key.mT * block.scale).softmax(-1), value)
        explicit = after + block.mlp(after)
        torch.testing.assert_close(explicit, module(tokens), atol=atol, rtol=0)


def test_facts(headless: Backbone) -> None:
    assert (headless.depth, headless.patch_size, headless.image_size) == (4, 16, 64)
    assert headless.embed(photos(64, 80)).shape == (2, 4 * 5, 64)
    corner = siglip.network(padding="corner")
    assert corner.embed(photos(64, 70)).shape == (2, 4 * 5, 64)


def test_statistics_are_the_towers_own(headless: Backbone, backbone: Backbone) -> None:
    assert headless.mean == headless.std == (127.5, 127.5, 127.5)
    assert siglip.network(mean=(1, 2, 3)).mean == (1, 2, 3)
    assert backbone.mean == (122.771, 116.746, 104.094)
    assert backbone.has_class_token


@pytest.fixture(scope="module")
def projection_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("learned") / "projection.safetensors"
    save_file({"projection": torch.randn(64, 64) / 8}, path)
    return str(path)


@pytest.mark.parametrize("name", names("attention"))
def test_every_variant_runs_or_says_why_not(
    name: str, headless: Backbone, projection_file: str
) -> None:
    files = {"projection_file": projection_file} if name == "csa_learned" else {}
    variant, images = load_attention(name, **files), photos(96, 128)
    if name in NEED_A_CLASS_TOKEN:
        with pytest.raises(LabError, match=r"needs a class token; custom has none; set class_sh"):
            dense_features(headless, images, variant)
        return
    text = torch.nn.functional.normalize(torch.randn(5, 64), dim=-1)
    labels = testing.patch_labels(headless, images) if "labels" in variant.uses else None
    around = {"text": text, "guidance": seen(variant)}
    each_around = {**around, "labels": None if labels is None else labels[:1]}
    around["labels"] = labels
    features = dense_features(headless, images, variant, **around)
    assert features.shape == (2, 6, 8, 64)
    assert torch.isfinite(features).all()
    each = [dense_features(headless, one[None], variant, **each_around) for one in images]
    torch.testing.assert_close(features, torch.cat(each), atol=2e-5, rtol=0)
    # Where there is no class token, leaving it out changes nothing.
    other = load_attention(name, class_token=not variant.config["class_token"], **files)
    assert torch.equal(dense_features(headless, images, other, **around), features)


@pytest.mark.parametrize("kind", ["prior", "mix", "repair", "entry", "hidden"])
def test_every_part_runs_or_says_why_not(kind: str, headless: Backbone) -> None:
    for part in names(f"attention/{kind}"):
        variant = load_attention("csa", **{kind: part})
        if kind == "repair" and part in ("class_attention", "sfp"):  # the same function
            with pytest.raises(LabError, match=r"repair class_attention needs a class token.*lof"):
                dense_features(headless, photos(48, 64), variant)
        else:
            text = torch.nn.functional.normalize(torch.randn(5, 64), dim=-1)
            features = dense_features(
                headless, photos(48, 64), variant, text=text, guidance=seen(variant)
            )
            assert torch.isfinite(features).all()


@pytest.mark.parametrize("name", sorted(NEED_A_CLASS_TOKEN))
def test_the_advice_of_the_message_works(name: str, headless: Backbone) -> None:
    others = {} if name == "dih" else {"repair": "lof"}
    variant = load_attention(name, class_share=0, **others)
    features = dense_features(headless, photos(48, 64), variant)
    assert features.shape == (2, 3, 4, 64)
    assert torch.isfinite(features).all()


def test_prior_by_hand(headless: Backbone) -> None:
    tokens = headless.embed(photos(48, 64))
    for block in headless.blocks[:-1]:
        tokens = block.plain(tokens)
    block = headless.blocks[-1]
    key = block.project(block.norm(tokens), "key")
    expected = (key @ key.mT * block.scale + gaussian((3, 4))[1:, 1:]).softmax(-1)
    variants = [load_attention("naclip")]
    [(_, state, _)] = tree.leaves(headless.blocks, headless.embed(photos(48, 64)), (3, 4), variants)
    assert state.attention is not None
    torch.testing.assert_close(state.attention, expected, atol=1e-6, rtol=0)
    patches, image = headless.project(state, (3, 4))
    labels = torch.zeros(2, 3, 4, dtype=torch.long)
    observation = Observation(state.attention, patches, image, labels, (3, 4), 16)
    torch.testing.assert_close(observation.weights, expected, atol=1e-6, rtol=0)


def test_parallel_stream_leaves_the_image_embedding(headless: Backbone) -> None:
    image = both(headless, photos(), variant=load_attention("surgery"))[1]
    torch.testing.assert_close(image, headless.model.encode_image(photos()), atol=1e-5, rtol=0)


def test_low_precision(headless: Backbone) -> None:
    state = headless.model.state_dict()
    low = load_backbone(
        architecture=siglip.architecture(), state_dict=state, precision="bf16", device="cpu"
    )
    assert low.dtype == torch.bfloat16
    rough, exact = (dense_features(b, photos(), load_attention("csa")) for b in (low, headless))
    assert F.cosine_similarity(rough, exact, dim=-1).min() > 0.999


def test_digest_sees_weights_and_settings(headless: Backbone) -> None:
    state = headless.model.state_dict()

    def digest(pool: str = "map", **options: Any) -> str:
        architecture = siglip.architecture(timm_pool=pool)
        return load_backbone(architecture=architecture, device="cpu", **options).key

    assert digest(state_dict=state) == headless.key
    others = [digest(), digest(pool="avg"), digest(state_dict=state, layer_norm_eps=1e-2)]
    assert len({headless.key, *others}) == 4


def test_checkpoint_round_trip(headless: Backbone, tmp_path: Path) -> None:
    save_file(headless.model.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_backbone(
        checkpoint=tmp_path / "weights.safetensors",
        architecture=siglip.architecture(),
        device="cpu",
    )
    assert loaded.key == headless.key
    assert loaded.text_key == headless.text_key


def test_texts_equal_open_clips(headless: Backbone) -> None:
    # SigLIP's tower is not causal and reads the padding: nothing may be cut off.
    texts = torch.randint(1, 100, (7, 16), generator=torch.Generator().manual_seed(0))
    for row, length in enumerate((3, 16, 8, 1, 5, 12, 2)):
        texts[row, length:] = 0
    tower_of_texts = Backbone("tiny", headless.model, lambda _: texts)
    expected = headless.model.encode_text(texts)
    torch.testing.assert_close(
        tower_of_texts.encode_text(["x"] * 7, batch=2), expected, atol=1e-6, rtol=0
    )


@pytest.mark.usefixtures("offline")
def test_a_tokenizer_out_of_reach_stops_texts_only(headless: Backbone) -> None:
    with pytest.raises(LabError, match="tokenizer of no/such-tokenizer cannot be loaded"):
        headless.encode_text(["a cat"])


def test_quick_gelu_is_not_timms() -> None:
    with pytest.raises(LabError, match="its own activation"):
        siglip.network(quick_gelu=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"global_pool": "max"}, "pools by 'max'"),
        ({"attn_layer": "diff"}, "DiffAttention, subtracts one softmax from another"),
    ],
)
def test_unsupported_towers(options: dict[str, Any], says: str, headless: Backbone) -> None:
    if missing := options.keys() - inspect.signature(VisionTransformer).parameters:
        pytest.skip(f"this timm has no {', '.join(missing)}")
    model = copy.deepcopy(headless.model)
    model.visual.trunk = VisionTransformer(**{**siglip.TOWER, "num_classes": 0, **options})
    with pytest.raises(LabError, match=f"tiny: .*{says}"):
        Backbone("tiny", model, headless.tokenize)


def test_other_blocks_are_refused(headless: Backbone) -> None:
    module = copy.deepcopy(headless.model.visual.trunk.blocks[0])
    del module.ls1
    with pytest.raises(LabError, match="its Block has neither ls1"):
        check_block(module, "tiny")


# lposs needs a second network, and is tested with one.
@pytest.mark.parametrize("name", [name for name in names("readout") if name != "lposs"])
def test_every_readout_runs_without_a_class_token(name: str, headless: Backbone) -> None:
    content = load_group("readout", name)
    texts = F.normalize(torch.randn(5, headless.embed_dim), dim=-1)
    readout = Readout(Protocol(readout=content), texts, torch.arange(5))
    encoded = toy.encoded(headless, torch.randn(2, 3, 48, 80), load_attention("csa"))
    logits = toy.logits(readout, encoded)
    assert logits.shape == (2, 3, 5, 5)
    assert torch.isfinite(logits).all()


def test_regions_need_a_class_token(headless: Backbone) -> None:
    encoded = toy.encoded(headless, torch.randn(1, 3, 64, 64), load_attention("csa"))
    with pytest.raises(LabError, match="cliptrase needs a class token"):
        cliptrase(torch.zeros(64, 64, dtype=torch.uint8), encoded)
