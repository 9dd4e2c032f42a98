"""What readouts learn from the other photos of a data set and their masks.

A readout that is declared with `sclip_lab.core.functions.reads_others` names a function that
summarises one photo. One pass summarises all photos of the data set for all variants. A photo's
logits then come from the summaries of all photos but itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.evaluation.loader import Photo
from sclip_lab.evaluation.spec import Spec
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.encoded import Encoded


class References:
    """Summaries of photos, for each spec whose readout reads other photos.

    Args:
        specs: of one data set; the attribute ``specs`` has those whose readouts read other photos.
        readouts: of all specs, by their keys.
    """

    def __init__(self, specs: Iterable[Spec], readouts: Mapping[str, Readout]) -> None:
        self.readouts = readouts
        self.specs = [spec for spec in specs if readouts[spec.key].steps.summary is not None]
        self._summaries: dict[str, dict[str, Any]] = {spec.key: {} for spec in self.specs}

    def add(self, spec: Spec, photo: Photo, encoded: Encoded) -> None:
        """Summarise one photo as one spec's variant sees it; ``encoded`` has its own windows only,
        without further views."""
        summary, patches = self.readouts[spec.key].steps.summary, encoded.patches
        assert summary is not None
        plan = photo.plan.on_grid((patches.shape[1], patches.shape[2]))
        labels = windows.patch_labels(plan, photo.sample.mask, spec.dataset.ignore_index)
        summarised = summary(encoded, labels.to(patches.device), spec.vocabulary.num_classes)
        self._summaries[spec.key][photo.sample.name] = summarised

    def logits(
        self, spec: Spec, encoded: Encoded, chunk: slice, photos: Sequence[tuple[str, slice]]
    ) -> Tensor:
        """(windows, grid_h, grid_w, queries): what the spec's readout makes of some windows.

        Args:
            encoded: the windows.
            chunk: which of a batch they are.
            photos: name and windows of each photo of that batch.
        """
        readout = self.readouts[spec.key]
        if readout.steps.summary is None:
            return readout.patch_logits(encoded)
        others = []
        for name, part in photos:
            first, last = max(part.start, chunk.start), min(part.stop, chunk.stop)
            if first < last:
                here = slice(first - chunk.start, last - chunk.start)
                others.append((here, self._others(spec, name)))
        return readout.patch_logits(encoded, others)

    def _others(self, spec: Spec, photo: str) -> list[Any]:
        """Return the summaries of all photos but ``photo``, in the order of the data set, so that
        sums over them are the same bits every time."""
        summaries = self._summaries[spec.key]
        others = [
            summaries[name] for name in spec.dataset.names if name in summaries and name != photo
        ]
        if not others:
            raise LabError(
                f"data set {spec.dataset.name} has no photo beside {photo}; protocol.readout "
                "learns its classes from the masks of other photos"
            )
        return others
