"""Report on an evaluation's data: which photos it used, and what makes its scores doubtful."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from sclip_lab.data.base import Dataset
from sclip_lab.data.census import Census
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results.store.store import Store

log = logging.getLogger(__name__)
NAMED = 10  # classes that one line names


class Audit:
    """Counts masks while passes evaluate specs, and logs what makes the scores doubtful."""

    def __init__(self, specs: Iterable[Spec]) -> None:
        specs = list(specs)
        self.datasets = {spec.dataset.key: spec.dataset for spec in specs}
        self._readers = {(s.vocabulary.key, s.backbone.text_key): s for s in specs if
                         s.backbone.has_text}  # fmt: skip
        self.censuses = {
            key: Census(dataset.vocabulary, dataset.ignore_index)
            for key, dataset in self.datasets.items()
        }
        self._audited: dict[str, set[str]] = {key: set() for key in self.datasets}

    def add(self, dataset: Dataset, name: str, mask: np.ndarray) -> None:
        """Count one mask, (height, width). A mask that several passes read counts once."""
        key = dataset.key
        if name not in self._audited[key]:
            self._audited[key].add(name)
            self.censuses[key].add(mask)

    def say_what_is_evaluated(self) -> None:
        """Log one line per data set: its photos, the selected part, files without a partner.

        For example "voc21: 8 photos with masks of split val (first 8), 21 classes".
        """
        for dataset in self.datasets.values():
            split = getattr(dataset, "split", "")
            selection = getattr(dataset, "selection", "")
            photos = f"{len(dataset)} photos with masks{f' of split {split}' if split else ''}"
            classes = f"{dataset.vocabulary.num_classes} classes"
            line = f"{dataset.name}: {photos}{f' ({selection})' if selection else ''}, {classes}"
            log.info("%s", "; ".join([line, *getattr(dataset, "unpaired", ())]))

    def say_what_was_read(self, df: pd.DataFrame) -> None:
        """Log the share of ignored pixels in the masks that were read, and warnings."""
        for key, census in self.censuses.items():
            name = self.datasets[key].name
            if census.photos:
                share = f"{census.share_ignored:.1%} of pixels are ignored"
                log.info("%s: %d masks read, %s", name, census.photos, share)
                for warning in census.warnings(getattr(self.datasets[key], "turned", ())):
                    # Few photos seldom hold all classes: `data verify` lists those that do not.
                    if "occur in no mask" not in warning:
                        log.warning("warning: %s: %s", name, warning)
        if any(self._audited.values()):
            for spec in self._readers.values():
                for line in read_alike(spec):
                    log.warning("warning: %s", line)
        for line in never_true(df):
            log.warning("warning: %s", line)


def never_true(df: pd.DataFrame) -> list[str]:
    """One line per data set that names the predicted classes no mask contains."""
    lines = []
    totals = df.groupby(["dataset", "true", "predicted"], observed=True)["pixels"].sum()
    for dataset, pixels in totals.groupby(level="dataset", observed=True):
        present = set(pixels.index.get_level_values("true"))
        predicted = pixels.groupby(level="predicted").sum()
        strange = predicted[~predicted.index.isin(list(present))].sort_values(ascending=False)
        if len(strange):
            names = df.attrs["class_names"][str(dataset)]
            listed = [str(names[int(index)]) for index in strange.index[:NAMED]]
            share = strange.sum() / predicted.sum()
            more = ", ..." if len(strange) > NAMED else ""
            lines.append(
                f"{dataset}: predicted on {share:.1%} of pixels, but in no mask: "
                f"{', '.join(listed)}{more}"
            )
    return lines


def read_alike(spec: Spec) -> list[str]:
    """One line for each two classes whose names the text tower reads as the same text, for example
    descriptions that differ only after its last token. The lower id gets the pixels of both."""
    if spec.backbone.tokenize is None:
        return []
    queries, classes = spec.vocabulary.queries, spec.vocabulary.query_classes
    first: dict[bytes, int] = {}
    lines = []
    for index, tokens in enumerate(spec.backbone.tokenize(list(queries))):
        other = first.setdefault(tokens.numpy().tobytes(), index)
        if classes[other] != classes[index] and queries[other].strip() != queries[index].strip():
            lines.append(
                f"{spec.vocabulary.name}: classes {classes[other]} and {classes[index]} are one "
                f"text to the text tower, which reads {len(tokens)} tokens without case: "
                f"'{queries[other][:40]}' and '{queries[index][:40]}'"
            )
    return lines[:NAMED]


def nothing_left(specs: Sequence[Spec], store: Store) -> dict[str, str]:
    """Return {key: reason} for each spec whose photos on_error=skip has all left out."""
    reasons = {}
    for spec in specs:
        skipped = {} if store.done(spec) else store.skipped(spec)
        if skipped:
            name, why = next(iter(skipped.items()))
            reasons[spec.key] = (
                f"{spec.label}: on_error=skip left out all {len(skipped)} photos of "
                f"{spec.dataset.name}; {name}: {why}"
            )
    return reasons
