"""Through which projection CSA correlates tokens, and why it matters so little (or so much)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sclip_lab.paper import published
from sclip_lab.paper.claims import Claim, alike, difference_in_words, higher, missing
from sclip_lab.paper.studies import Study, of_gain
from sclip_lab.report.curves import curves, line, pick, spec, specs
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import Figure, charts, heat_map
from sclip_lab.report.tables import captioned

RANDOM = ("csa_random", "csa_random_orthogonal", "csa_random_full")
SINGLE = ("csa_identity", "csa_q", "csa_k", "csa_v")
MARGIN = 0.03  # the paper's rows lie between 57.1 and 60.4 on VOC21


def _seeds(evidence: Evidence, **fixed: object) -> list[str]:
    return list(pick(evidence, **fixed).index)


def _claims(evidence: Evidence) -> list[Claim]:
    csa, mean, vanilla = specs(evidence, "csa", "csa_mean", "vanilla")
    singles = list(filter(None, specs(evidence, *SINGLE)))
    randoms = _seeds(evidence, variant="csa_random", attention__count=1)
    claims = []
    for base, words, section in (
        (csa, "any single one lies within 3 points of q and k", "1.4"),
        (mean, "any single one lies within 3 points of the mean of q and k", ""),
    ):
        # A row of the sum weighs twice as much against the residual as a row of any other map.
        where = "" if base == csa else " where all maps have one weight"
        text = f"CSA is insensitive to the projection{where}: {words}"
        if base and singles:
            claims.append(alike(evidence, [*singles, *randoms], base, MARGIN, text, section))
    text = "The sum's doubled weight against the residual helps: q + k is better than their mean"
    claims.append(higher(evidence, csa, mean, text))
    if randoms:
        ranked = sorted(randoms, key=evidence.score)
        text = "Even the worst random projection is better than vanilla attention"
        family = [(key, vanilla) for key in randoms] if vanilla else []
        claims.append(higher(evidence, ranked[0], vanilla, text, family, published="1.4"))
        many = _seeds(evidence, variant="csa_random", attention__count=16)
        if many:
            text = "An ensemble of 16 random projections is better than the median single one"
            claims.append(higher(evidence, many[0], ranked[len(ranked) // 2], text))
    learned = spec(evidence, variant="csa_learned")
    if learned is None:
        how = "none was given: sclip-lab learn-projection, then attention.projection_file=..."
        claims.append(missing("A learned projection is best", how, "1.4"))
    else:
        text = "A learned projection is better than q and k"
        claims.append(higher(evidence, learned, csa, text, published="1.4"))
    return claims


def _ensemble(evidence: Evidence) -> Figure | None:
    table = pick(evidence, variant="csa_random")
    counts = sorted({int(v) for v in table.get("attention.count", ())})
    groups = [_seeds(evidence, variant="csa_random", attention__count=n) for n in counts]
    if len(counts) < 2:
        return None
    lines = {
        "random, seed 0": line(evidence, "attention.count", variant="csa_random", attention__seed=0)
    }
    names = ("CSA (q + k)", "mean of q and k")
    references = dict(zip(names, specs(evidence, "csa", "csa_mean"), strict=True))
    title = "random projections in the ensemble"
    figure = curves(evidence, {title: lines}, references, log=[title])
    for count, keys in zip(counts, groups, strict=True):
        scores = 100 * evidence.cells.loc[keys, "miou"]
        figure.axes[0].plot([count] * len(keys), scores, "_", color="black", markersize=7, zorder=3)
    figure.set_label(
        "ensembles of n random projections (gaussian, of head_dim); band: 95 % interval over "
        "photos of seed 0; dashes: each seed"
    )
    return figure


def map_correlations(evidence: Evidence, specs: Sequence[str]) -> pd.DataFrame | None:
    """Pearson correlation of attention maps, averaged over the chosen points of all photos.

    Returns:
        a row and a column for each of ``specs`` by its name, entries in -1 .. 1; None where fewer
        than two have maps.
    """
    maps: dict[str, list[np.ndarray]] = {spec: [] for spec in specs}
    for picture in evidence.pictures:
        by_spec = {p.spec: p.attention for p in picture.predictions if p.attention is not None}
        if set(specs) <= by_spec.keys():
            for spec in specs:
                maps[spec] += list(by_spec[spec].reshape(len(by_spec[spec]), -1))
    with_maps = [spec for spec in specs if maps[spec]]
    if len(with_maps) < 2:
        return None
    standard = {spec: np.stack([_standardised(m) for m in maps[spec]]) for spec in with_maps}
    values = [[float((standard[a] * standard[b]).mean()) for b in with_maps] for a in with_maps]
    names = [evidence.name(spec) for spec in with_maps]
    return pd.DataFrame(values, index=names, columns=names)


def _standardised(values: np.ndarray) -> np.ndarray:
    centred = values.astype(np.float64) - values.mean()
    spread = centred.std()
    return centred / spread if spread > 0 else centred


def _correlations(table: pd.DataFrame) -> Figure:
    """Heat map of `map_correlations`."""
    size = 1.8 + 0.42 * len(table)
    with charts((size + 0.8, size)) as (figure, [ax]):
        heat_map(ax, table, vmin=-1, vmax=1, cmap="vlag", annot=True, fmt=".2f", square=True,
                 cbar_kws={"label": "correlation", "shrink": 0.7})  # fmt: skip
        ax.set_title("attention maps of two variants\n(mean over heads, chosen points)")
        figure.set_label("how alike the maps of two variants are; 1: they look at the same places")
    return figure


def _figures(evidence: Evidence) -> dict[str, Figure]:
    figures: dict[str, Figure | None] = {"projections_ensemble": _ensemble(evidence)}
    shown = specs(evidence, "csa", *SINGLE, "csa_random", "csa_random_orthogonal", "vanilla")
    correlations = map_correlations(evidence, list(filter(None, shown)))
    if correlations is not None:
        figures["projections_maps"] = _correlations(correlations)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    fixed = evidence.cells[~evidence.cells["variant"].str.startswith("csa_random")].index
    tables = {"projections": published.scores(evidence.of([*fixed, *_seeds(
        evidence, variant="csa_random", attention__count=1, attention__seed=0)]))}  # fmt: skip
    cells = pick(evidence, variant=RANDOM)
    if len(cells):
        cells = cells.assign(variant=pd.Categorical(cells["variant"], RANDOM))
        groups = cells.groupby(["variant", "attention.count"], observed=True)
        facts = {"seeds": "size", "mean": "mean", "lowest": "min", "highest": "max", "std": "std"}
        rows = groups.agg(**{name: ("miou", how) for name, how in facts.items()}).reset_index()
        rows = rows.rename(columns={"attention.count": "matrices"})
        caption = "random projections over seeds, mIoU x100"
        tables["projections_random"] = captioned(rows, caption)
    return tables


def _any_projection(evidence: Evidence) -> str:
    csa, vanilla = specs(evidence, "csa", "vanilla")
    singles = [*filter(None, specs(evidence, *SINGLE)),
               *_seeds(evidence, variant="csa_random", attention__count=1)]  # fmt: skip
    if not csa or not vanilla or not singles:
        return ""
    low, high = (pick_one(singles, key=evidence.score) for pick_one in (min, max))
    lowest, highest, both, none = (evidence.score(key) for key in (low, high, csa, vanilla))
    return (
        f"{len(singles)} single projections score {100 * lowest:.1f} ({evidence.name(low)}) to "
        f"{100 * highest:.1f} ({evidence.name(high)}), q + k {100 * both:.1f}, vanilla "
        f"{100 * none:.1f}: the spread is {of_gain(highest - lowest, both - none)}."
    )


def _tuning_free(evidence: Evidence) -> str:
    csa, learned = specs(evidence, "csa", "csa_learned")
    if csa is None or learned is None:
        return (
            "No answer: no learned projection was given (sclip-lab learn-projection, then "
            "attention.projection_file=...)."
        )
    return f"Against a learned projection: {difference_in_words(evidence, csa, learned)}."


STUDY = Study(
    question="Which projection do tokens have to be correlated through: none, q, k, v, both, a "
    "random or a learned one? And why does it hardly matter?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    answers={"projection": _any_projection, "tuning": _tuning_free},
    order=1,
)
