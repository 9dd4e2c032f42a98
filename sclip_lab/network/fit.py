"""Put weights into a network: convert those in another layout, refuse those that do not fit."""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import timm
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from timm.models import vision_transformer
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.network import layouts
from sclip_lab.network.architecture import infer_architecture, read_architecture
from sclip_lab.network.checkpoint import FEWEST_OF_A_SET, OPENAI_ENTRIES

if TYPE_CHECKING:
    from sclip_lab.network.backbone import Backbone

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]
# Buffers that other releases saved, and that are made anew.
BUFFERS = ("attn_mask", "position_ids")
# Weights of other heads and of training, which features do not need.
UNUSED = ("head.", "mask_token", "fc_norm.", "head_dist.", "pooler.", "dino_head.", "ibot_head.")
VISUAL = "visual."


def load_weights(model: Any, weights: Mapping[str, Tensor], source: str, name: str) -> bool:
    """Put weights in a known layout into an open_clip model.

    Returns:
        whether the text tower has weights; a file can hold the image tower alone.

    Raises:
        LabError: they do not fit; ``source`` and ``name`` say which weights and network.
    """
    fitting = check_fit(model, weights, source, name)
    has_text = any(not key.startswith(VISUAL) for key in fitting)
    model.load_state_dict(_in_fp32(fitting), strict=has_text)
    return has_text


def check_fit(model: Any, weights: Mapping[str, Tensor], source: str, name: str) -> Weights:
    """Convert weights to a model's names, and check that they fit.

    Raises:
        LabError: they are not those of the model by name, shape and type.
    """
    tensors = {key: value for key, value in weights.items() if key not in OPENAI_ENTRIES}
    notes: list[str] = []
    converted = _converted(model, tensors, notes)
    expected = model.state_dict()
    of_image = {key for key in expected if key.startswith(VISUAL)}
    if converted and set(converted) <= set(expected) - of_image:
        raise LabError(f"{source} holds weights of a text tower and none of an image tower")
    if converted and all(key.startswith(VISUAL) for key in converted):
        expected = {key: expected[key] for key in of_image}
        notes.append("the image tower alone, so texts cannot be read")
    hint = partial(_hint, tensors, expected, name)
    _compare(converted, expected, source, f"architecture {name}", hint)
    if notes:
        log.info("%s: read %s", source, ", ".join(notes))
    return converted


def load_timm_weights(
    model: Any, weights: Mapping[str, Tensor], source: str, name: str, role: str
) -> None:
    """Put weights into a vision transformer of timm.

    Facebook's, transformers' and other layouts are converted, by timm's own converter where it has
    one; a position embedding of another grid is resampled.

    Raises:
        LabError: they do not fit.
    """
    notes: list[str] = []
    expected = model.state_dict()
    tensors = _in_fp32(weights)
    if renamed := layouts.of_vit(tensors):
        tensors, layout = renamed
        notes.append(layout)
        if layout == layouts.VIT:
            # Its norms have another epsilon than timm's, which weights do not say.
            set_epsilon(model, layouts.VIT_EPSILON)
    if of_training := {k: v for k, v in tensors.items() if k.startswith("backbone.")}:
        # DINO's network in training, without its projection heads.
        tensors = {key.removeprefix("backbone."): value for key, value in of_training.items()}
        notes.append("the weights below 'backbone.'")
    if "register_tokens" in tensors:
        tensors.setdefault("mask_token", torch.zeros(1))  # timm knows DINOv2's layout by it
    ours = expected.get("patch_embed.proj.weight")
    theirs = next((w for k, w in tensors.items() if k.endswith("patch_embed.proj.weight")), ours)
    if ours is not None and theirs is not None and theirs.shape[-2:] != ours.shape[-2:]:
        # timm would resample it, and position embeddings with it.
        sizes = ["x".join(map(str, weight.shape[-2:])) for weight in (theirs, ours)]
        raise LabError(f"{source} has patches of {sizes[0]} pixels, {role} {name} of {sizes[1]}")
    tensors = _by_timm(model, tensors)
    tensors = {
        key: value
        for key, value in tensors.items()
        # Whole numbers are buffers, which releases make anew.
        if key in expected or (value.is_floating_point() and not key.startswith(UNUSED))
    }
    _compare(tensors, expected, source, f"{role} {name}", partial(_hint, tensors, expected, name))
    if notes:
        log.info("%s: read %s", source, ", ".join(notes))
    model.load_state_dict(tensors)


def _in_fp32(weights: Mapping[str, Tensor]) -> Weights:
    return {k: w.float() if w.is_floating_point() else w for k, w in weights.items()}


def set_epsilon(model: Any, epsilon: float) -> None:
    """Replace the epsilon of every layer norm of the image tower."""
    for module in getattr(model, "visual", model).modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = epsilon


def check_config(folder: Path, backbone: Backbone) -> bool:
    """Compare the ``config.json`` of a folder in transformers' layout with a network, and take the
    epsilon of norms from it. Weights do not say epsilon, number of heads or activation.

    Returns:
        whether the file states the activation.

    Raises:
        LabError: another number of heads, or another activation.
    """
    if not (folder / "config.json").is_file():
        return False
    config = read_architecture(folder / "config.json")
    vision = config.get("vision_config", config)
    if not isinstance(vision, Mapping):
        return False
    tower, name = backbone.tower, backbone.name
    heads, ours = vision.get("num_attention_heads"), tower.blocks[0].num_heads
    if heads is not None and heads != ours:
        raise LabError(f"{folder}: its config.json has {heads} heads in a block, {name} has {ours}")
    activation, computed = vision.get("hidden_act"), layouts.activation(tower.blocks[0].activation)
    if activation in layouts.ACTIVATIONS or computed in layouts.ACTIVATIONS.values():
        expected = layouts.ACTIVATIONS.get(str(activation), str(activation))
        if activation is not None and expected != computed:
            raise LabError(
                f"{folder}: its config.json has the activation {activation}, {name} computes "
                f"{computed}"
            )
    epsilon = vision.get("layer_norm_eps")
    if isinstance(epsilon, float):
        set_epsilon(backbone.model, epsilon)
    return activation is not None


def _by_timm(model: Any, weights: Weights) -> Weights:
    """Convert weights by timm's own converter, which stands beside the model's class."""
    expected = model.state_dict()
    same_names = set(weights) == set(expected)
    if same_names and all(weights[key].shape == expected[key].shape for key in expected):
        return weights
    module = sys.modules[type(model).__module__]
    # Encoders of language models have one converter for themselves and one for the classifier.
    kind = "encoder" if type(model).__name__.endswith("Encoder") else "classifier"
    names = (f"checkpoint_filter_fn_{kind}", "checkpoint_filter_fn")
    convert: Callable[..., Any] = next(
        (getattr(module, name) for name in names if hasattr(module, name)),
        vision_transformer.checkpoint_filter_fn,
    )
    try:
        converted = convert(dict(weights), model)
    # It expects one of its own layouts, and fails in many ways on others.
    except Exception:
        return weights
    return dict(converted)


def _converted(model: Any, weights: Weights, notes: list[str]) -> Weights:
    """Convert weights to open_clip's current layout of this model."""
    if renamed := layouts.of_clip(weights):
        weights, layout = renamed
        notes.append(f"{layout} layout")
    weights = dict(convert_state_dict(model, weights))
    expected = model.state_dict()
    if "class_embedding" in weights and "conv1.weight" in weights:  # an image tower alone
        weights = {VISUAL + key: value for key, value in weights.items()}
    has_text_module = any(key.startswith("text.") for key in expected)
    if "positional_embedding" in weights and has_text_module:
        weights = convert_to_custom_text_state_dict(weights)
        notes.append("the text tower's weights by their newer names")
    elif "text.positional_embedding" in weights and not has_text_module:
        weights = {key.removeprefix("text."): value for key, value in weights.items()}
    weights = {
        key: value
        for key, value in weights.items()
        if key in expected
        or not (key.rpartition(".")[2] in BUFFERS or key.startswith("text_decoder."))
    }
    _fix_logits(weights, expected, notes)
    # A position embedding whose grid is not square cannot be resized; `_compare` then refuses it.
    with suppress(RuntimeError, ValueError):
        _resize(model, weights, expected, notes)
    return weights


def _fix_logits(weights: Weights, expected: Mapping[str, Tensor], notes: list[str]) -> None:
    """Make scale and bias of logits fit. They change no feature, and releases store them
    differently."""
    has_text = any(not key.startswith(VISUAL) for key in weights)
    for key, usual in (("logit_scale", math.log(1 / 0.07)), ("logit_bias", 0.0)):
        if key in weights and key not in expected:
            del weights[key]
        elif key in weights and weights[key].numel() == 1:
            weights[key] = weights[key].reshape(expected[key].shape)
        elif key in expected and has_text and key not in weights:
            weights[key] = torch.full(expected[key].shape, float(usual))
            notes.append(f"no {key}, which is set to {usual:.3g}")


def _resize(model: Any, weights: Weights, expected: Mapping[str, Tensor], notes: list[str]) -> None:
    """Resize position embeddings of another image size or text length, as open_clip does."""

    def differs(key: str) -> bool:
        if key not in weights or key not in expected:
            return False
        ours, theirs = expected[key].shape, weights[key].shape
        return ours != theirs and ours[-1:] == theirs[-1:]

    trunk_key = "visual.trunk.pos_embed"
    if differs("visual.positional_embedding"):
        open_clip.model.resize_pos_embed(weights, model)
        notes.append("position embeddings resized to the network's grid")
    if differs(trunk_key):
        grid = list(model.visual.trunk.patch_embed.grid_size)
        count = expected[trunk_key].shape[1] - grid[0] * grid[1]
        side = round((weights[trunk_key].shape[1] - count) ** 0.5)
        weights[trunk_key] = timm.layers.resample_abs_pos_embed(
            weights[trunk_key].float(), grid, old_size=[side, side], num_prefix_tokens=count
        )
        notes.append("position embeddings resized to the network's grid")
    for key in ("positional_embedding", "text.positional_embedding"):
        if differs(key):
            log.warning(
                "position embeddings of texts are interpolated from %d to %d tokens, as open_clip "
                "does: texts get other embeddings than in training. An architecture with "
                "text_cfg.context_length=%d reads them as they are",
                *(len(weights[key]), len(expected[key]), len(weights[key])),
            )
            open_clip.model.resize_text_pos_embed(weights, model)


def _hint(weights: Weights, expected: Mapping[str, Tensor], name: str) -> str:
    """Return advice for weights that do not fit: networks that have their sizes, or parts of the
    weights, such as a student and a teacher, that can be chosen alone."""
    fitting = fitting_names(weights)
    if fitting and name not in fitting:
        return f". Their sizes are those of {', '.join(fitting)}"
    counts = Counter(key.partition(".")[0] for key in weights if "." in key)
    ours = {key.partition(".")[0] for key in expected}
    parts = [first for first, n in counts.items() if n >= FEWEST_OF_A_SET and first not in ours]
    if not parts:
        return ""
    return f". backbone.weights={' or '.join(parts)} takes the weights of that first name alone"


def fitting_names(state_dict: Mapping[str, Any], most: int = 5) -> list[str]:
    """Return open_clip's names of plain ViTs that have the sizes of some weights."""
    try:
        sizes = infer_architecture(state_dict)
    except LabError:
        return []
    compared = {
        "vision_cfg": ("width", "patch_size", "layers", "image_size"),
        "text_cfg": ("width", "layers", "vocab_size", "context_length"),
    }
    names = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        same = config["embed_dim"] == sizes["embed_dim"] and all(
            config[part].get(key) == sizes[part][key] for part in compared for key in compared[part]
        )
        names += [name] if same else []
    return names[:most]


def _compare(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    source: str,
    what: str,
    hint: Callable[[], str],
) -> None:
    """Refuse weights whose names, shapes or types are not the expected ones."""
    missing = sorted(set(expected) - set(weights))
    extra = sorted(set(weights) - set(expected))
    both = [key for key in expected if key in weights]
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(expected[key].shape)}"
        for key in both
        if weights[key].shape != expected[key].shape
    ]
    integers = [
        key
        for key in both
        if expected[key].is_floating_point() and not weights[key].is_floating_point()
    ]
    if integers:
        raise LabError(
            f"{source}: weight {integers[0]} is of type {weights[integers[0]].dtype}, as in "
            "quantised networks; convert the weights to floating point first"
        )
    counted = ((missing, "weights missing"), (extra, "unexpected"), (shapes, "of another shape"))
    problems = [f"{len(each)} {what}, first {each[0]}" for each, what in counted if each]
    if problems:
        raise LabError(f"{source} does not fit {what}: {'; '.join(problems)}{hint()}")
