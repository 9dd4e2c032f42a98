"""The registry: the functions of every measure, and measures of plug-ins.

What a measure says, its range, direction and source stand in ``measures.yaml``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib import resources
from types import FunctionType
from typing import Any

import torch
import yaml
from torch import Tensor

from sclip_lab.core import functions
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.diagnostics import (
    attention,
    borders,
    features,
    localisation,
    retrieval,
    same_class,
    shift,
)
from sclip_lab.diagnostics.layers import Layers
from sclip_lab.diagnostics.measure import Measure, OfLayer
from sclip_lab.diagnostics.observation import Observation

Compute = Callable[[Observation], Tensor]
Functions = dict[str, Callable[..., Any]]  # functions of a `Measure` by the names of its fields


def _of(function: Callable[..., Tensor], *parts: str, **options: Any) -> Compute:
    """A measure of some parts of an observation, which the function gets in this order."""
    return lambda windows: function(*(getattr(windows, part) for part in parts), **options)


def _of_photo(function: Callable[..., float], *parts: str) -> Compute:
    """A measure of parts of a photo; each of its windows has the photo's number."""

    def of_windows(windows: Observation) -> Tensor:
        number = function(*(getattr(windows.photo, part) for part in parts))
        return torch.full_like(windows.undefined, number)

    return of_windows


def _of_weights(function: Callable[[Tensor], Tensor]) -> Functions:
    """A measure of any layer's attention, a number per head; a window has the mean over heads."""
    return {
        "compute": lambda windows: function(windows.weights).mean(-1),
        "of_layer": _by_head(lambda weights, _: function(weights)),
    }


def _by_head(function: Callable[[Tensor, Observation], Tensor]) -> OfLayer:
    """A measure of a layer's attention among patches; None if other patches are read out."""

    def of_layer(layers: Layers, layer: int, windows: Observation) -> Tensor | None:
        weights = layers.rows(layer)
        # Labels and distances are those of the patches that are read out.
        if weights is None or weights.shape[-1] != windows.flat_labels.shape[1]:
            return None
        return function(weights, windows)

    return of_layer


def _distance(weights: Tensor, windows: Observation) -> Tensor:
    return attention.mean_attention_distance(weights, windows.grid, windows.patch_size)


def _mass_by_head(weights: Tensor, windows: Observation) -> Tensor:
    batch, heads = weights.shape[:2]
    repeated = windows.flat_labels.repeat_interleave(heads, dim=0)
    return same_class.inter_class_mass(weights.flatten(0, 1), repeated).view(batch, heads)


def _of_tokens(function: Callable[[Tensor], Tensor]) -> OfLayer:
    return lambda layers, layer, _: function(layers.patches(layers.entered(layer).tokens))


def _of_features(function: Callable[[Tensor], Tensor], part: str) -> Functions:
    """A measure of patch embeddings, which in a layer takes tokens."""
    return {"compute": _of(function, part), "of_layer": _of_tokens(function)}


def _of_layers(function: Callable[[Layers], Tensor | None]) -> Compute:
    """A measure of the network's blocks; None where a variant has no such number."""

    def of_windows(windows: Observation) -> Tensor:
        assert windows.layers is not None
        number = function(windows.layers)
        return windows.undefined if number is None else number

    return of_windows


def _of_stream(function: Callable[[Layers, Tensor], Tensor]) -> Functions:
    """A measure of the tokens behind the last block, and of those that enter a layer."""
    return {
        "compute": _of_layers(lambda layers: function(layers, layers.stream)),
        "of_layer": lambda layers, layer, _: function(layers, layers.entered(layer).tokens),
    }


def _to_class_token(layers: Layers, tokens: Tensor) -> Tensor:
    if not layers.encoded.backbone.has_class_token:
        return torch.full((len(tokens),), torch.nan, device=tokens.device)
    return features.class_similarity(layers.patches(tokens), tokens[:, 0].float())


def _residual_ratio(layers: Layers, layer: int) -> Tensor | None:
    weights, entered = layers.attention(layer), layers.entered(layer)
    if weights is None or weights.shape[-1] != entered.tokens.shape[1]:  # among patches alone
        return None
    return features.residual_ratio(
        entered.tokens, entered.block.output(weights, entered.projected("value"))
    )


def _cka(layers: Layers, tokens: Tensor) -> Tensor:
    stream = layers.patches(layers.stream)
    if layers.encoded.state.grid is not None:  # other layers have other patches
        return torch.full((len(stream),), torch.nan, device=stream.device)
    return features.linear_cka(layers.patches(tokens), stream)


def _moved(windows: Observation, position: int) -> Tensor:
    """One of the two cosines of `shift.compare`."""
    layers = windows.layers
    assert layers is not None
    if layers.encoded.state.grid is not None:  # windows move by one patch of the input's grid
        return windows.undefined
    return shift.compare(windows.patches.float(), layers.moved_features)[position]


# Attributes of an `Observation`: attention between patches, similarity of features, similarity
# maps of classes, each with the classes of the patches.
OF_PAIRS, OF_FEATURES = ("mean_weights", "flat_labels"), ("cosines", "flat_labels")
OF_CLASSES = ("class_maps", "flat_labels")
FUNCTIONS: dict[str, Compute | Functions] = {
    "attention_entropy": _of_weights(attention.attention_entropy),
    "mean_attention_distance": {
        "compute": lambda windows: _distance(windows.weights, windows).mean(-1),
        "of_layer": _by_head(_distance),
    },
    "spatial_invariance": _of_weights(attention.spatial_invariance),
    "diagonal_mass": _of_weights(attention.diagonal_mass),
    "self_argmax_rate": _of_weights(attention.self_argmax_rate),
    "inter_class_mass": {
        "compute": _of(same_class.inter_class_mass, *OF_PAIRS),
        "of_layer": _by_head(_mass_by_head),
    },
    "inter_class_share": _of(same_class.inter_class_share, "flat_labels"),
    "inter_class_mass_relative": _of(same_class.relative_mass, *OF_PAIRS),
    "inter_class_mass_matched": _of(same_class.matched_mass, *OF_PAIRS, "grid"),
    "attention_same_class_auroc": _of(same_class.same_class_auroc, *OF_PAIRS),
    "attention_same_class_auroc_matched": _of(same_class.matched_auroc, *OF_PAIRS, "grid"),
    "attention_same_class_ap": _of(same_class.same_class_ap, *OF_PAIRS),
    "feature_same_class_auroc": _of(same_class.same_class_auroc, *OF_FEATURES, symmetric=True),
    "feature_same_class_auroc_matched": _of(same_class.matched_auroc, *OF_FEATURES, "grid"),
    "feature_same_class_ap": _of(same_class.same_class_ap, *OF_FEATURES, symmetric=True),
    "same_class_share": _of(same_class.same_class_share, "flat_labels"),
    "class_similarity": _of(features.class_similarity, "features", "class_embedding"),
    "class_token_similarity": _of_stream(_to_class_token),
    "feature_invariance": _of_features(features.feature_invariance, "features"),
    "effective_rank": _of_features(features.effective_rank, "features"),
    "rank_one_residual": _of_features(features.rank_one_residual, "flat_patches"),
    "outlier_fraction": _of_features(features.outlier_fraction, "flat_patches"),
    "high_norm_rate": _of_stream(
        lambda layers, tokens: features.high_norm_rate(layers.patches(tokens))
    ),
    "residual_ratio": {
        "compute": _of_layers(lambda layers: _residual_ratio(layers, layers.last)),
        "of_layer": lambda layers, layer, _: _residual_ratio(layers, layer),
    },
    "cka_to_plain": _of_layers(lambda layers: _cka(layers, layers.untouched())),
    "cka_to_output": {
        "compute": _of_layers(lambda layers: _cka(layers, layers.entered(layers.last).tokens)),
        "of_layer": lambda layers, layer, _: _cka(layers, layers.entered(layer).tokens),
    },
    "shift_equivariance": lambda windows: _moved(windows, 0),
    "shift_shuffled": lambda windows: _moved(windows, 1),
    "pointing_game": _of(localisation.pointing_game, *OF_CLASSES),
    "relevance_mass": _of(localisation.relevance_mass, *OF_CLASSES),
    "rank_accuracy": _of(localisation.rank_accuracy, *OF_CLASSES),
    "localisation_auc": _of(localisation.localisation_auc, *OF_CLASSES),
    "localisation_auc_shuffled": _of(localisation.localisation_auc, *OF_CLASSES, shuffled=True),
    "boundary_iou": _of_photo(borders.boundary_iou, "prediction", "mask", "ignore_index"),
    "window_border_error": _of_photo(
        borders.window_border_error, "prediction", "mask", "plan", "ignore_index"
    ),
    "patch_retrieval_miou": {
        "compute": lambda windows: windows.undefined,
        "pool": retrieval.patch_retrieval,
    },
}


def _measure(words: dict[str, Any], what: Compute | Functions) -> Measure:
    computed: dict[str, Any] = what if isinstance(what, dict) else {"compute": what}
    return Measure(**{**words, "needs": tuple(words.get("needs", ()))}, **computed)


_WORDS = yaml.safe_load(resources.files(__package__).joinpath("measures.yaml").read_text("utf-8"))
MEASURES = {name: _measure(_WORDS[name], what) for name, what in FUNCTIONS.items()}


def find(name: str) -> Measure:
    """A measure of ``MEASURES``, or of an allowed module, as in ``my.ideas.spread``.

    An allowed module defines a `Measure`, or a function ``(observation) -> (batch,)`` whose
    docstring says what the number is. NaN means that it is not defined for a window.

    Raises:
        LabError: no such measure (did you mean), a module that is not allowed or fails, or
            something that is neither a `Measure` nor a function.
    """
    if name in MEASURES:
        return MEASURES[name]
    module_name, _, attribute = str(name).rpartition(".")
    if not module_name:
        raise unknown("measure", name, MEASURES)
    if not any(f"{module_name}.".startswith(f"{allowed}.") for allowed in functions.allowed()):
        raise LabError(
            f"diagnostics.measures: '{module_name}' is not an allowed module. Allow it with "
            f"plugins=[{module_name}]"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise LabError(f"diagnostics.measures: {name}: {error}") from error
    thing = getattr(module, attribute, None)
    if isinstance(thing, Measure):
        return thing
    if not isinstance(thing, FunctionType):
        measures = [n for n, v in vars(module).items() if isinstance(v, Measure | FunctionType)]
        raise unknown(f"measure in {module_name}", attribute, measures)
    says = (thing.__doc__ or name).strip().partition("\n")[0]
    return Measure(thing, says, low=None, high=None, source=name, undefined="where it is NaN")
