"""Every variant against the official code of its method, on a toy CLIP.

Walks the folder of official outputs (`tests.vectors`), so that a new file there is tested the
moment it exists: tests/parity_cases.yaml says which variant it belongs to. The generator of the
toy network and its images is tests/make_clip.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import sclip_lab as lab
from sclip_lab.attention.variant import Variant
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import State
from sclip_lab.segmentation import tree
from tests import make_clip, toy, vectors

CASES: dict[str, dict[str, Any]] = yaml.safe_load((vectors.HERE / "parity_cases.yaml").read_text())

# Files without patch features, or whose features depend on text as well, and who compares them.
ELSEWHERE = {
    "openai_pooled": "test_parity.py, test_class_embedding_is_the_pooled_output",
    "naclip_prior": "attention/test_prior.py",
    "posemb": "test_position_embedding.py",
    "preprocess": "test_transforms.py",
    "pamr": "refinements/test_pamr.py",
    "sclip_segmentor": "test_segmentor_parity.py",
    "naclip_segmentor": "test_segmentor_parity.py",
    "itaclip_segmentor": "test_segmentor_parity.py",
    "cliptrase_pipeline": "refinements/test_cliptrase_refinement.py",
    "resclip_full_voc21": "readouts/test_resclip_readout.py",
    "resclip_full_context59": "readouts/test_resclip_readout.py",
    "resclip_full_sclip": "readouts/test_resclip_readout.py",
    "resclip_sfr_only": "readouts/test_resclip_readout.py",
}

FEATURES = 5e-5  # official code in float64 differs from itself in float32 by 6e-6
HALF_FEATURES = 2e-3  # position embeddings rounded to half precision on the way
WEIGHTS = 1e-5


def files() -> list[str]:
    """Names of all vector files, those of every folder that has any."""
    found = {path.stem for folder in vectors.folders() for path in folder.glob("*.npz")}
    return sorted(found)


def setup(case: Mapping[str, Any]) -> tuple[Backbone, Variant]:
    arguments = {"position_embedding": case["position_embedding"], **case.get("backbone", {})}
    variant = lab.load_attention(case["attention"], **case.get("overrides", {}))
    return toy.network(**arguments), variant


def errors(
    backbone: Backbone, variant: Variant, image: Tensor, official: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Largest absolute difference of each array that a variant has by itself.

    Args:
        image: (1, 3, height, width), normalised.
        official: ``feat`` (rows of the grid, embed_dim), optionally with ``feat_index`` the rows
            that were kept of it; ``cls`` (embed_dim,), the class token of the stream that is read
            out, and ``ori_cls`` that of the trained stream; ``attn`` (heads, tokens, tokens), and
            ``attn_rows`` with ``attn_rows_index`` the query tokens that were kept.
    """
    features = lab.dense_features(backbone, image, variant, normalize=False)
    features = features[0].flatten(0, 1).numpy()
    kept = official.get("feat_index", np.arange(len(features)))
    found = {"feat": difference(features[kept], official["feat"])}
    state, class_embedding = run(backbone, variant, image)
    if "ori_cls" in official:
        found["ori_cls"] = difference(class_embedding[0].numpy(), official["ori_cls"])
        read_out = State(state.readout)
        class_embedding = backbone.project(read_out, backbone.grid(*image.shape[-2:]))[1]
    if "cls" in official:
        found["cls"] = difference(class_embedding[0].numpy(), official["cls"])
    if state.attention is not None:
        weights = state.attention[0].numpy()
        if "attn" in official:
            found["attn"] = difference(weights, official["attn"])
        if "attn_rows" in official:
            rows = weights[:, official["attn_rows_index"]]
            found["attn_rows"] = difference(rows, official["attn_rows"])
    return found


def difference(ours: np.ndarray, official: np.ndarray) -> float:
    assert ours.shape == official.shape
    return float(np.abs(ours.astype(np.float64) - official).max())


@torch.inference_mode()
def run(backbone: Backbone, variant: Variant, image: Tensor) -> tuple[State, Tensor]:
    grid = backbone.grid(*image.shape[-2:])
    [(_, state, _)] = tree.leaves(backbone.blocks, backbone.embed(image), grid, [variant])
    return state, backbone.project(state, grid)[1]


def by_input(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """``<input>__<array>`` keys as two levels."""
    result: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        name, separator, rest = key.partition("__")
        if separator:
            result.setdefault(name, {})[rest] = array
    return {name: part for name, part in result.items() if "feat" in part}


def test_generator_draws_what_the_official_code_was_run_on() -> None:
    expected = json.loads(vectors.find("digests.json").read_text())
    seed = make_clip.SEEDS["public"]["weights"]
    assert make_clip.digest(make_clip.make_state_dict(seed)) == expected["weights"]
    assert make_clip.digest(make_clip.make_inputs("public")) == expected["inputs"]
    assert make_clip.digest({"t": make_clip.make_text("public")}) == expected["text"]
    assert make_clip.digest({"p": make_clip.make_photo("public")}) == expected["photo"]


def test_every_official_output_is_compared() -> None:
    missing = [name for name in files() if name not in CASES and name not in ELSEWHERE]
    assert not missing, f"add them to tests/parity_cases.yaml: {', '.join(missing)}"


@pytest.mark.parametrize("name", [name for name in files() if name in CASES])
def test_variant_equals_the_official_code(name: str) -> None:
    backbone, variant = setup(CASES[name])
    official = by_input(vectors.load(name))
    assert official, f"{name}.npz has no patch features"
    for input_name, arrays in official.items():
        image = toy.inputs()[input_name]
        trained = (backbone.image_size, backbone.image_size) == tuple(image.shape[-2:])
        half = backbone.position_embedding == "bilinear_half" and not trained
        for array, error in errors(backbone, variant, image, arrays).items():
            limit = HALF_FEATURES if half else WEIGHTS if "attn" in array else FEATURES
            assert error <= limit, f"{name} {input_name} {array}: {error:.2e} > {limit:.0e}"


def test_class_embedding_is_the_pooled_output() -> None:
    backbone, variant = setup(CASES["clip_vanilla"])
    for key, pooled in vectors.load("openai_pooled").items():
        _, class_embedding = run(backbone, variant, toy.inputs()[key.partition("__")[0]])
        assert difference(class_embedding[0].numpy(), pooled) <= FEATURES
