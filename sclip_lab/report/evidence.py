"""What is known of a set of cells: scores, intervals, pictures; and, where the cells were just
computed, their `Spec`. All studies and reports are functions of an `Evidence`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from sclip_lab import results
from sclip_lab.results.statistics.comparisons import Comparisons
from sclip_lab.results.statistics.uncertainty import photo_sets
from sclip_lab.results.store.picture_files import Picture
from sclip_lab.results.store.spec_labels import labels

if TYPE_CHECKING:
    from sclip_lab.evaluation.spec import Spec

DIGITS = 6  # of a digest that is part of a name


@dataclass(frozen=True, eq=False)
class Evidence:
    """Cells of one or several settings.

    Attributes:
        df: rows of `results.load`.
        measured: rows of `results.diagnostics`. layers: the same by layer and head.
        pictures: from `sclip_lab.results.store.picture_files.load`.
        specs: the cells' `Spec` by the beginning of their key, as in ``df["spec"]``. Empty where
            only a store is at hand: then reports leave out what needs the network.
        options: a study's options on the command line, such as ``image`` and ``points``.
        whole: how many images each data set has.
        bootstrap: makes `comparisons` when first needed, from ``df`` or from a larger evidence
            that this one is a part of; None: from ``df``.
    """

    df: pd.DataFrame
    measured: pd.DataFrame = field(default_factory=pd.DataFrame)
    pictures: Sequence[Picture] = ()
    specs: Mapping[str, Spec] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, int] = field(default_factory=dict)
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    bootstrap: Callable[[], Comparisons] | None = None
    _differences: dict[tuple[str, str, float], pd.Series] = field(default_factory=dict, init=False)

    @cached_property
    def comparisons(self) -> Comparisons:
        """The bootstrap that all tables, figures and claims share."""
        return Comparisons(self.df) if self.bootstrap is None else self.bootstrap()

    @cached_property
    def summary(self) -> pd.DataFrame:
        """`results.summary`."""
        specs = set(self.df["spec"].astype(str))
        return results.summary(self.df, groups=self.comparisons.only(specs))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The summary with a unique ``name``, the ``variant`` (the label without parameters), and
        the value of every configuration key, whether it differs or not; index: spec."""
        table = self.summary
        configs = table.attrs.get("configs", {})
        flat = pd.DataFrame(
            [configs.get(str(spec), {}) for spec in table["spec"]], index=table.index, dtype=object
        )
        new = flat[[c for c in flat if c not in table or "." in str(c)]]
        table = table.drop(columns=[c for c in table if c in new]).join(new)
        table["name"] = labels(self.summary)
        table["variant"] = table["attention"].astype(str).str.partition("(")[0]
        table["spec"] = table["spec"].astype(str)
        return table.set_index("spec", drop=False)

    def score(self, spec: str) -> float:
        """mIoU of one cell, a fraction."""
        return float(self.cells["miou"].loc[spec])

    def name(self, spec: str) -> str:
        """The unique name of one cell."""
        return str(self.cells["name"].loc[spec])

    def difference(self, a: str, b: str, level: float = 0.95) -> pd.Series:
        """The row of `results.difference` of two specs: difference, low, high, p, images."""
        if (a, b, level) not in self._differences:
            self._differences[a, b, level] = self.comparisons.of([(a, b)], level).iloc[0]
        return self._differences[a, b, level]

    def values(self, measure: str) -> pd.DataFrame:
        """One diagnostic by photo: index image, columns spec; empty where it was not measured."""
        if not len(self.measured):
            return pd.DataFrame()
        rows = self.measured[self.measured["measure"] == measure].astype({"spec": str})
        return rows.pivot_table(index="image", columns="spec", values="value", observed=True)

    def only(self, **chosen: str) -> Evidence:
        """The part with these values of columns of ``df``, such as dataset and backbone."""
        cells = self.df.drop_duplicates("spec")
        is_chosen = (cells[list(chosen)].astype(str) == list(chosen.values())).all(axis=1)
        return self.of(sorted(cells["spec"][is_chosen].astype(str)))

    def of(self, specs: Sequence[str]) -> Evidence:
        """The part with these specs."""
        chosen = set(specs)

        def rows(table: pd.DataFrame) -> pd.DataFrame:
            return table[table["spec"].astype(str).isin(chosen)] if len(table) else table

        pictures = [
            replace(picture, predictions=predictions)
            for picture in self.pictures
            if (predictions := [p for p in picture.predictions if p.spec in chosen])
        ]
        return replace(
            self,
            df=rows(self.df),
            measured=rows(self.measured),
            layers=rows(self.layers),
            pictures=pictures,
            specs={key: spec for key, spec in self.specs.items() if key in chosen},
            bootstrap=lambda: self.comparisons,
        )

    def by_photos(self) -> dict[str, Evidence]:
        """Split into parts whose cells were evaluated on the same photos, by a name of the photos.

        The name is the data set's. Where one data set has several sets of photos, the split and
        number of photos follow, and if names are still equal the beginning of the photos' digest,
        then "set 1", "set 2" and so on.
        """
        members: dict[int, list[str]] = {}
        for spec, number in photo_sets(self.df).items():
            members.setdefault(number, []).append(spec)
        configs = self.df.attrs.get("configs", {})
        facts: list[tuple[str, ...]] = []
        for specs in members.values():
            rows, config = self.df[self.df["spec"] == specs[0]], configs.get(specs[0], {})
            count = rows["image"].nunique()
            split = f", {config['dataset.split']}" if config.get("dataset.split") else ""
            photos = f"{split}, {count} photo{'s' * (count > 1)}"
            digest = f" ({str(config.get('dataset.digest', ''))[:DIGITS]})"
            facts.append((str(rows["dataset"].iloc[0]), photos, digest, f", set {len(facts) + 1}"))
        names = [parts[0] for parts in facts]
        for length in range(2, 5):
            names = [
                "".join(parts[:length]) if names.count(name) > 1 else name
                for name, parts in zip(names, facts, strict=True)
            ]
        parts = [self.of(specs) for specs in members.values()] if len(members) > 1 else [self]
        return dict(zip(names, parts, strict=True))

    def on_common_images(self) -> Evidence:
        """Keep only images that all specs of a data set have, so that each pair can be compared."""
        parts = []
        for _, rows in self.df.groupby("dataset", observed=True, sort=False):
            specs_of_image = rows.groupby("image", observed=True)["spec"].transform("nunique")
            parts.append(rows[specs_of_image == rows["spec"].nunique()])
        common = pd.concat(parts)
        common.attrs = self.df.attrs
        return replace(self, df=common, bootstrap=None)

    @property
    def part(self) -> str:
        """ "16 of 64 images of voc21" where scores are over a part of a data set, else ""."""
        parts = []
        for dataset, rows in self.df.groupby("dataset", observed=True, sort=False):
            count, whole = rows["image"].nunique(), self.whole.get(str(dataset))
            if whole and count < whole:
                parts.append(f"{count} of {whole} images of {dataset}")
        return "; ".join(parts)
