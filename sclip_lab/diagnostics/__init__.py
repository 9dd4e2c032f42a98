"""Measures of what an attention variant does, beside the score it gets.

``MEASURES`` are those of one variant on one batch of windows, by name. What compares two variants
or needs the network again is a plain function: `features.linear_cka`, `features.residual_ratio`,
`shift.shift_equivariance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sclip_lab.diagnostics import attention, features, labels
from sclip_lab.diagnostics.observation import Observation
from sclip_lab.errors import unknown

__all__ = ["MEASURES", "Measure", "Observation", "check", "measure"]


@dataclass(frozen=True)
class Measure:
    """One number per window.

    Attributes:
        compute: from an observation, (batch,); NaN in windows where it has no meaning.
        says: what the number is, and what a high one means.
        low, high: its range; None where there is no bound.
        needs_attention: it has no meaning for a method without a single attention map.
    """

    compute: Callable[[Observation], Tensor]
    says: str
    low: float | None = 0.0
    high: float | None = 1.0
    needs_attention: bool = False


def _of_weights(function: Callable[[Tensor], Tensor]) -> Callable[[Observation], Tensor]:
    return lambda seen: function(seen.weights).mean(-1)


def _cosines(seen: Observation) -> Tensor:
    return seen.features @ seen.features.mT


MEASURES: dict[str, Measure] = {
    "attention_entropy": Measure(
        _of_weights(attention.attention_entropy),
        "entropy of attention over that of a uniform one; 1: looks everywhere",
        needs_attention=True,
    ),
    "mean_attention_distance": Measure(
        lambda seen: attention.mean_attention_distance(
            seen.weights, seen.grid, seen.patch_size
        ).mean(-1),
        "distance attended over, in pixels; high: global",
        high=None,
        needs_attention=True,
    ),
    "spatial_invariance": Measure(
        _of_weights(attention.spatial_invariance),
        "cosine of the maps of two patches; 1: all patches have one map",
        needs_attention=True,
    ),
    "diagonal_mass": Measure(
        _of_weights(attention.diagonal_mass),
        "attention of a patch to itself",
        needs_attention=True,
    ),
    "self_argmax_rate": Measure(
        _of_weights(attention.self_argmax_rate),
        "share of patches that attend to themselves most",
        needs_attention=True,
    ),
    "inter_class_mass": Measure(
        lambda seen: labels.inter_class_mass(seen.weights.mean(1), seen.flat_labels),
        "attention that goes to other classes; low is good",
        needs_attention=True,
    ),
    "inter_class_share": Measure(
        lambda seen: labels.inter_class_share(seen.flat_labels),
        "inter_class_mass of uniform attention, the control",
    ),
    "attention_same_class_auroc": Measure(
        lambda seen: labels.same_class_auroc(seen.weights.mean(1), seen.flat_labels),
        "ROC area of attention telling pairs of one class; 0.5 by chance, high is good",
        needs_attention=True,
    ),
    "attention_same_class_ap": Measure(
        lambda seen: labels.same_class_ap(seen.weights.mean(1), seen.flat_labels),
        "average precision of the same; same_class_share by chance, high is good",
        needs_attention=True,
    ),
    "feature_same_class_auroc": Measure(
        lambda seen: labels.same_class_auroc(_cosines(seen), seen.flat_labels),
        "ROC area of feature cosines telling pairs of one class; 0.5 by chance, high is good",
    ),
    "feature_same_class_ap": Measure(
        lambda seen: labels.same_class_ap(_cosines(seen), seen.flat_labels),
        "average precision of the same; same_class_share by chance, high is good",
    ),
    "same_class_share": Measure(
        lambda seen: labels.same_class_share(seen.flat_labels),
        "share of pairs of one class, the average precision of chance",
    ),
    "class_similarity": Measure(
        lambda seen: features.class_similarity(seen.features, seen.class_embedding),
        "cosine of patch and class embeddings; high: patches say what the window says",
        low=-1.0,
    ),
    "feature_invariance": Measure(
        lambda seen: features.feature_invariance(seen.features),
        "cosine of two patches' embeddings; 1: the window has one feature",
        low=-1.0,
    ),
    "outlier_fraction": Measure(
        lambda seen: features.outlier_fraction(seen.patches.flatten(1, 2)),
        "share of patches with a norm above median + 3 MAD",
        high=0.5,
    ),
}


def check(names: Iterable[str]) -> None:
    """Raises LabError (did you mean) where a name is not one of ``MEASURES``."""
    for name in names:
        if name not in MEASURES:
            raise unknown("measure", name, MEASURES)


@torch.inference_mode()
def measure(observation: Observation, names: Iterable[str]) -> dict[str, Tensor]:
    """Measures of one observation.

    Args:
        observation: one variant on a batch of windows.
        names: keys of ``MEASURES``.

    Returns:
        per name, (batch,) floats; NaN where a measure has no meaning: a method without an
        attention map, a window of a single class.

    Raises:
        LabError: unknown name.
    """
    names = list(names)
    check(names)
    values = {}
    for name in names:
        chosen = MEASURES[name]
        if chosen.needs_attention and observation.attention is None:
            patches = observation.patches
            values[name] = torch.full((len(patches),), torch.nan, device=patches.device)
        else:
            values[name] = chosen.compute(observation).float()
    return values
