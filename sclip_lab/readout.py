"""Patch embeddings to a prediction: logits, synonyms, thresholds, in row bands.

The softmax runs over all queries, and a class takes the largest probability among its synonyms;
so a pixel's class is that of its largest query logit, and its probability follows from that logit
and the sum of exponentials. Neither needs a [classes, queries, H, W] tensor, nor all rows at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.encoded import Encoded
from sclip_lab.errors import LabError
from sclip_lab.protocol import Protocol
from sclip_lab.readouts.cosine import cosine
from sclip_lab.targets import bind_config, bind_steps, digest
from sclip_lab.windows import Plan

# Arguments of refinements that are not parameters.
_SUPPLIED = ("mask", "prediction", "image", "encoded")
Bands = Iterator[tuple[slice, Tensor]]


@dataclass(frozen=True, eq=False)
class Readout:
    """One protocol with its text embeddings.

    Attributes:
        protocol: readout, scale, thresholds, refinement.
        text: (queries, embed_dim) float32, unit norm.
        query_classes: (queries,) class of each query.
    """

    protocol: Protocol
    text: Tensor
    query_classes: Tensor

    def __post_init__(self) -> None:
        if self.text.ndim != 2 or len(self.text) != len(self.query_classes):
            raise LabError(
                f"text of shape {tuple(self.text.shape)} for {len(self.query_classes)} queries"
            )

    @cached_property
    def num_classes(self) -> int:
        return int(self.query_classes.max()) + 1

    @cached_property
    def _score(self) -> Callable[..., Tensor]:
        return bind_config(self.protocol.readout, ("encoded", "text")) or cosine

    @cached_property
    def _refine_logits(self) -> list[Callable[..., Tensor]]:
        return [step for step in self._refinements if "mask" in _wants(step)]

    @cached_property
    def _refine_labels(self) -> list[Callable[..., Tensor]]:
        return [step for step in self._refinements if "prediction" in _wants(step)]

    @cached_property
    def _refinements(self) -> Sequence[Callable[..., Tensor]]:
        return bind_steps(self.protocol.refinement, _SUPPLIED)

    @property
    def logits_key(self) -> tuple[Any, ...]:
        """Readouts with equal keys have the same patch logits on the same windows."""
        return id(self.text), digest(self.protocol.readout)

    def patch_logits(self, encoded: Encoded) -> Tensor:
        """(windows, grid_h, grid_w, queries) float32: cosines, or the protocol's own readout."""
        return self._score(encoded, self.text.to(encoded.state.tokens.device))

    def predict(
        self,
        plan: Plan,
        laid_out: Tensor,
        image: Tensor | None = None,
        encoded: Encoded | None = None,
    ) -> Tensor:
        """Labels at the photo's size.

        Args:
            plan: window geometry.
            laid_out: (queries, n_rows * grid_h, n_columns * grid_w) patch logits, from
                `Plan.lay_out`.
            image: (3, *plan.resized) normalised; only refinements look at it.
            encoded: the photo's windows; only refinements look at them.

        Returns:
            (height, width) uint8 class ids (int16 beyond 256 classes).
        """
        seen: dict[str, Any] = {"encoded": encoded}
        if self._refinements and image is not None:
            resized = F.interpolate(image[None].to(laid_out), size=plan.target, mode="bilinear")
            seen["image"] = resized[0]
        whole = plan.stitch(laid_out) if self._refine_logits else None
        for step in self._refine_logits:
            whole = _call(step, mask=whole, **seen)

        def bands(queries: Tensor | None = None) -> Bands:
            if whole is not None:
                yield slice(None), whole if queries is None else whole[queries]
            else:
                yield from plan.bands(laid_out if queries is None else laid_out[queries])

        prediction = self._decide(bands, plan.target, laid_out.device)
        for step in self._refine_labels:
            prediction = _call(step, prediction=prediction, **seen)
        return prediction

    def _decide(
        self, bands: Callable[..., Bands], size: tuple[int, int], device: torch.device
    ) -> Tensor:
        protocol = self.protocol
        classes = self.query_classes.to(device)
        dtype = torch.uint8 if self.num_classes <= 256 else torch.int16
        prediction = torch.empty(size, dtype=dtype, device=device)
        # log of the sum of exponentials per pixel: only a probability threshold needs it.
        normaliser = torch.empty(size, device=device) if protocol.prob_threshold else None
        best = torch.empty(size, device=device) if protocol.prob_threshold else None
        for rows, logits in bands():
            largest, query = logits.max(dim=0)
            prediction[rows] = classes[query].to(dtype)
            if normaliser is not None and best is not None:
                best[rows] = largest
                spread = (logits - largest).mul_(protocol.logit_scale).exp_().sum(dim=0)
                normaliser[rows] = spread.log_().add_(largest * protocol.logit_scale)
        if protocol.area_threshold:
            kept = self._large_enough(prediction)
            queries = kept[classes].nonzero()[:, 0]
            if len(queries) < len(classes):
                for rows, logits in bands(queries):
                    largest, query = logits.max(dim=0)
                    prediction[rows] = classes[queries[query]].to(dtype)
                    if best is not None:
                        best[rows] = largest
        if normaliser is not None and best is not None:
            probability = (best * protocol.logit_scale - normaliser).exp_()
            prediction[probability < protocol.prob_threshold] = 0
        return prediction

    def _large_enough(self, prediction: Tensor) -> Tensor:
        """(classes,) bool: background, and classes above the share of predicted foreground."""
        area = torch.bincount(prediction.flatten().int(), minlength=self.num_classes)
        kept = torch.ones(self.num_classes, dtype=torch.bool, device=prediction.device)
        foreground = area[1:].sum()
        if foreground > 0:
            kept[1:] = area[1:] / foreground > self.protocol.area_threshold
        return kept


def _wants(step: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(step).parameters)


def _call(step: Callable[..., Tensor], **available: Any) -> Tensor:
    """``step`` with those of its arguments that are not bound yet."""
    wanted = {name: available.get(name) for name in _wants(step) if name in _SUPPLIED}
    for name, value in wanted.items():
        if value is None:
            raise LabError(f"protocol.refinement needs the {name}")
    return step(**wanted)
