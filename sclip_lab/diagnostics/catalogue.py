"""The registry: every measure with its range, direction and source, and those of plug-ins."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
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
from sclip_lab.diagnostics.measure import Measure
from sclip_lab.diagnostics.observation import Observation, Scene

ONE_CLASS = "windows of one class"
ONE_PATCH = "grids of one patch"
NO_OTHER = "windows of one class, attention to self alone"
OWN_GRID = "features on a grid of their own"
EQUAL_OR_OWN_GRID = f"windows whose tokens are all equal, {OWN_GRID}"


def _of_weights(function: Callable[[Tensor], Tensor], says: str, **more: Any) -> Measure:
    """A measure of any layer's attention: a number per head, of which the window has the mean."""
    return Measure(
        lambda windows: function(windows.weights).mean(-1),
        says,
        needs=("attention",),
        of_weights=lambda weights, _: function(weights),
        **more,
    )


def _distance(weights: Tensor, windows: Observation) -> Tensor:
    return attention.mean_attention_distance(weights, windows.grid, windows.patch_size)


def _mass_by_head(weights: Tensor, windows: Observation) -> Tensor:
    batch, heads = weights.shape[:2]
    repeated = windows.flat_labels.repeat_interleave(heads, dim=0)
    return same_class.inter_class_mass(weights.flatten(0, 1), repeated).view(batch, heads)


def _layers(windows: Observation) -> Layers:
    assert windows.layers is not None
    return windows.layers


def _of_tokens(function: Callable[[Tensor], Tensor]) -> Callable[[Layers, int], Tensor]:
    return lambda layers, layer: function(layers.patches(layers.tokens(layer)))


def _to_class_token(layers: Layers, tokens: Tensor) -> Tensor:
    if not layers.encoded.backbone.has_class_token:
        return torch.full((len(tokens),), torch.nan, device=tokens.device)
    return features.class_similarity(layers.patches(tokens), tokens[:, 0].float())


def _residual_ratio(layers: Layers, layer: int, _: Observation) -> Tensor | None:
    weights, entered = layers.attention(layer), layers.entered(layer)
    if weights is None or weights.shape[-1] != entered.tokens.shape[1]:
        return None
    return features.residual_ratio(
        entered.tokens, entered.block.output(weights, entered.projected("value"))
    )


def _last_residual_ratio(windows: Observation) -> Tensor:
    ratio = _residual_ratio(_layers(windows), _layers(windows).last, windows)
    return windows.undefined if ratio is None else ratio  # None: weights among patches alone


def _cka(layers: Layers, tokens: Tensor) -> Tensor:
    stream = layers.patches(layers.stream)
    if layers.encoded.state.grid is not None:  # its patches are not those of the other layers
        return torch.full((len(stream),), torch.nan, device=stream.device)
    return features.linear_cka(layers.patches(tokens), stream)


def _classes(windows: Observation) -> Tensor:
    assert windows.similarity is not None
    return windows.similarity.flatten(1, 2)


def _of_classes(function: Callable[[Tensor, Tensor], Tensor], says: str, **more: Any) -> Measure:
    """A measure of the similarity maps of the classes that a window holds."""
    return Measure(
        lambda windows: function(_classes(windows), windows.flat_labels),
        says,
        needs=("similarity",),
        undefined=ONE_CLASS,
        **more,
    )


def _moved(position: int, says: str, **more: Any) -> Measure:
    """One of the two cosines of `shift.compare`."""

    def cosine(windows: Observation) -> Tensor:
        layers = _layers(windows)
        if layers.encoded.state.grid is not None:  # windows move by another patch than these
            return windows.undefined
        return shift.compare(windows.patches.float(), layers.moved_features)[position]

    undefined = f"{OWN_GRID}, windows of one row or column"
    return Measure(cosine, says, low=-1.0, needs=("layers",), undefined=undefined, **more)


def _of_scene(function: Callable[[Scene, int], float], says: str, **more: Any) -> Measure:
    """A measure of a photo; each of its windows has the photo's number."""

    def of_windows(windows: Observation) -> Tensor:
        assert windows.scene is not None
        return torch.full_like(windows.undefined, function(windows.scene, windows.patch_size))

    return Measure(of_windows, says, needs=("scene",), outcome=True, **more)


MEASURES: dict[str, Measure] = {
    "attention_entropy": _of_weights(
        attention.attention_entropy,
        "entropy of attention over that of a uniform one; 1: looks everywhere",
        source="arXiv 2303.06296",
        undefined=ONE_PATCH,
    ),
    "mean_attention_distance": Measure(
        lambda windows: _distance(windows.weights, windows).mean(-1),
        "distance attended over, in pixels of the network's input; high: global",
        high=None,
        needs=("attention",),
        source="arXiv 2010.11929",
        of_weights=_distance,
    ),
    "spatial_invariance": _of_weights(
        attention.spatial_invariance,
        "cosine of the maps of two patches; 1: all patches have one map",
        source="after arXiv 2312.01597",
        undefined=ONE_PATCH,
    ),
    "diagonal_mass": _of_weights(
        attention.diagonal_mass,
        "attention of a patch to itself",
    ),
    "self_argmax_rate": _of_weights(
        attention.self_argmax_rate,
        "share of patches that attend to themselves most",
    ),
    "inter_class_mass": Measure(
        lambda windows: same_class.inter_class_mass(windows.mean_weights, windows.flat_labels),
        "attention that goes to other classes",
        needs=("attention",),
        source="after arXiv 2411.10086",
        undefined=ONE_CLASS,
        control="inter_class_share",
        of_weights=_mass_by_head,
    ),
    "inter_class_share": Measure(
        lambda windows: same_class.inter_class_share(windows.flat_labels),
        "inter_class_mass of uniform attention, the control",
        undefined=ONE_CLASS,
        is_control=True,
    ),
    "inter_class_mass_relative": Measure(
        lambda windows: same_class.relative_mass(windows.mean_weights, windows.flat_labels),
        "attention between patches that goes to other classes, over their share; 1: as uniform",
        high=None,
        needs=("attention",),
        undefined=NO_OTHER,
    ),
    "inter_class_mass_matched": Measure(
        lambda windows: same_class.matched_mass(
            windows.mean_weights, windows.flat_labels, windows.grid
        ),
        "the same over that of a blind map with the same distances; 1: content does not count",
        high=None,
        needs=("attention",),
        better="low",
        undefined=NO_OTHER,
    ),
    "attention_same_class_auroc": Measure(
        lambda windows: same_class.same_class_auroc(windows.mean_weights, windows.flat_labels),
        "ROC area of attention telling pairs of one class; 0.5 by chance",
        needs=("attention",),
        better="high",
        source="after arXiv 2203.08414",
        undefined=ONE_CLASS,
    ),
    "attention_same_class_auroc_matched": Measure(
        lambda windows: same_class.matched_auroc(
            windows.mean_weights, windows.flat_labels, windows.grid
        ),
        "the same among pairs of equal distance; 0.5 by chance and for maps blind to content",
        needs=("attention",),
        better="high",
        undefined=ONE_CLASS,
    ),
    "attention_same_class_ap": Measure(
        lambda windows: same_class.same_class_ap(windows.mean_weights, windows.flat_labels),
        "average precision of the same; same_class_share by chance",
        needs=("attention",),
        better="high",
        source="after arXiv 2203.08414",
        undefined=ONE_CLASS,
        control="same_class_share",
    ),
    "feature_same_class_auroc": Measure(
        lambda windows: same_class.same_class_auroc(
            windows.cosines, windows.flat_labels, symmetric=True
        ),
        "ROC area of feature cosines telling pairs of one class; 0.5 by chance",
        better="high",
        source="after arXiv 2203.08414",
        undefined=ONE_CLASS,
    ),
    "feature_same_class_auroc_matched": Measure(
        lambda windows: same_class.matched_auroc(
            windows.cosines, windows.flat_labels, windows.grid
        ),
        "the same among pairs of equal distance; 0.5 by chance",
        better="high",
        undefined=ONE_CLASS,
    ),
    "feature_same_class_ap": Measure(
        lambda windows: same_class.same_class_ap(
            windows.cosines, windows.flat_labels, symmetric=True
        ),
        "average precision of the same; same_class_share by chance",
        better="high",
        source="after arXiv 2203.08414",
        undefined=ONE_CLASS,
        control="same_class_share",
    ),
    "same_class_share": Measure(
        lambda windows: same_class.same_class_share(windows.flat_labels),
        "share of pairs of one class, the average precision of chance",
        undefined=ONE_CLASS,
        is_control=True,
    ),
    "class_similarity": Measure(
        lambda windows: features.class_similarity(windows.features, windows.class_embedding),
        "cosine of patch and class embeddings; high: patches say what the window says",
        low=-1.0,
        better="low",
        source="after arXiv 2407.08268",
    ),
    "class_token_similarity": Measure(
        lambda windows: _to_class_token(_layers(windows), _layers(windows).stream),
        "cosine of patch tokens and the class token in the stream that is read out",
        low=-1.0,
        needs=("layers",),
        source="after arXiv 2410.01768",
        undefined="networks without a class token",
        of_tokens=lambda layers, layer: _to_class_token(layers, layers.tokens(layer)),
    ),
    "feature_invariance": Measure(
        lambda windows: features.feature_invariance(windows.features),
        "cosine of two patches' embeddings; 1: the window has one feature",
        low=-1.0,
        undefined=ONE_PATCH,
        of_tokens=_of_tokens(features.feature_invariance),
    ),
    "effective_rank": Measure(
        lambda windows: features.effective_rank(windows.features),
        "directions that a window's features use, 1 .. min(patches, dim); of a layer, its tokens",
        low=1.0,
        high=None,
        source="arXiv 2210.02885",
        of_tokens=_of_tokens(features.effective_rank),
    ),
    "rank_one_residual": Measure(
        lambda windows: features.rank_one_residual(windows.patches.flatten(1, 2)),
        "how far features are from all being one; 0: collapsed",
        high=None,
        source="arXiv 2103.03404",
        of_tokens=_of_tokens(features.rank_one_residual),
    ),
    "outlier_fraction": Measure(
        lambda windows: features.outlier_fraction(windows.patches.flatten(1, 2)),
        "share of patches with a norm above median + 3 MAD",
        high=0.5,
        source="after arXiv 2309.16588",
        of_tokens=_of_tokens(features.outlier_fraction),
    ),
    "high_norm_rate": Measure(
        lambda windows: features.high_norm_rate(_layers(windows).patches(_layers(windows).stream)),
        f"share of patch tokens with a norm above {features.HIGH_NORM:g}",
        needs=("layers",),
        source="after arXiv 2309.16588",
        of_tokens=_of_tokens(features.high_norm_rate),
        of_row_sum=True,
    ),
    "residual_ratio": Measure(
        _last_residual_ratio,
        "norm of what enters the last rewritten block over that of its attention's output",
        high=None,
        needs=("attention", "layers"),
        source="arXiv 2407.12442",
        undefined="attention among patches alone",
        of_layer=_residual_ratio,
        of_row_sum=True,
    ),
    "cka_to_plain": Measure(
        lambda windows: _cka(_layers(windows), _layers(windows).untouched()),
        "likeness of the stream that is read out to the network's own; 1: nothing has changed",
        needs=("layers",),
        source="arXiv 1905.00414",
        undefined=EQUAL_OR_OWN_GRID,
    ),
    "cka_to_output": Measure(
        lambda windows: _cka(_layers(windows), _layers(windows).tokens(_layers(windows).last)),
        "likeness of the stream that is read out to what enters the last rewritten block; of a "
        "layer, to what enters it",
        needs=("layers",),
        source="arXiv 1905.00414",
        undefined=EQUAL_OR_OWN_GRID,
        of_layer=lambda layers, layer, _: _cka(layers, layers.tokens(layer)),
    ),
    "shift_equivariance": _moved(
        0,
        "cosine of the features of the same pixels in a window and in the window moved by a patch",
        source="after arXiv 2210.02984",
        control="shift_shuffled",
    ),
    "shift_shuffled": _moved(
        1,
        "the same with the feature of another patch, the control",
        is_control=True,
    ),
    "pointing_game": _of_classes(
        localisation.pointing_game,
        "share of classes whose most similar patch is of the class",
        better="high",
        outcome=True,
        source="arXiv 1608.00507",
    ),
    "relevance_mass": _of_classes(
        localisation.relevance_mass,
        "share of a class's similarity map that lies on the class",
        better="high",
        outcome=True,
        source="arXiv 2003.07258",
    ),
    "rank_accuracy": _of_classes(
        localisation.rank_accuracy,
        "share of the class among the most similar patches, as many as it has",
        better="high",
        outcome=True,
        source="arXiv 2003.07258",
    ),
    "localisation_auc": _of_classes(
        localisation.localisation_auc,
        "ROC area of a class's similarity map telling its patches; 0.5 by chance",
        better="high",
        outcome=True,
        control="localisation_auc_shuffled",
    ),
    "localisation_auc_shuffled": _of_classes(
        lambda maps, names: localisation.localisation_auc(maps, names, shuffled=True),
        "the same with the map of another class of the window, the control",
        is_control=True,
    ),
    "boundary_iou": _of_scene(
        lambda s, _: borders.boundary_iou(s.prediction, s.mask, s.ignore_index),
        "IoU of the bands along the borders of true and predicted regions",
        better="high",
        source="arXiv 2103.16562",
        undefined="photos of void alone",
    ),
    "window_border_error": _of_scene(
        lambda s, patch: borders.window_border_error(
            s.prediction, s.mask, s.plan, patch, s.ignore_index
        ),
        "error rate within a patch of a window's edge, less that elsewhere; above 0: seams show",
        low=-1.0,
        better="low",
        undefined="photos of one window",
    ),
    "patch_retrieval_miou": Measure(
        lambda windows: windows.undefined,
        "mIoU of labels taken over from the nearest patches of the other measured photos",
        better="high",
        outcome=True,
        source="after arXiv 2306.01667",
        undefined="photos measured alone",
        pool=retrieval.patch_retrieval,
    ),
}


def find(name: str) -> Measure:
    """A measure of ``MEASURES``, or of an allowed module, as in ``my.ideas.spread``.

    An allowed module defines a `Measure`, or a function ``(observation) -> (batch,)`` whose
    docstring says what the number is. NaN means that it is not defined for a window.

    Raises:
        LabError: no such measure (did you mean), a module that is not allowed or fails, or
            something that is neither.
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
