"""Through which projection CSA correlates tokens, and why it matters so little (or so much)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sclip_lab.paper.projection_figures import (
    correlation_figure,
    map_correlations,
    preserved_figure,
)
from sclip_lab.paper.studies import Study
from sclip_lab.report import published
from sclip_lab.report.curves import curves, line, pick, spec
from sclip_lab.report.figures import COLORS
from sclip_lab.report.found import Found
from sclip_lab.report.verdicts import Verdict, alike, higher, nothing

SINGLE = ("csa_identity", "csa_q", "csa_k", "csa_v")
FORMS = {"orthogonal": "csa_random_orthogonal", "of full width": "csa_random_full"}
MARGIN = 0.03  # the paper's rows lie between 57.1 and 60.4 on VOC21


def _first(found: Found, variant: str) -> str | None:
    return spec(found, variant=variant)


def _seeds(found: Found, **fixed: object) -> list[str]:
    return list(pick(found, **fixed).index)


def _verdicts(found: Found) -> list[Verdict]:
    csa, mean, vanilla = (_first(found, v) for v in ("csa", "csa_mean", "vanilla"))
    singles = [key for v in SINGLE if (key := _first(found, v))]
    randoms = _seeds(found, variant="csa_random", attention__count=1)
    judged = []
    if csa and singles:
        judged.append(alike(found, [*singles, *randoms], csa, MARGIN, (
            "CSA is insensitive to the projection: any single one lies within 3 points of q and k"
        ), "1.4"))  # fmt: skip
    if mean and singles:
        judged.append(alike(found, [*singles, *randoms], mean, MARGIN, (
            "CSA is insensitive to the projection where all maps have one weight: any single one "
            "lies within 3 points of the mean of q and k"
        )))  # fmt: skip
    if csa and mean:
        judged.append(higher(found, csa, mean, "The sum's doubled weight against the residual "
                             "helps: q + k is better than their mean"))  # fmt: skip
    if vanilla and randoms:
        worst = min(randoms, key=lambda key: found.score(key))
        judged.append(higher(found, worst, vanilla, "Even the worst random projection is better "
                             "than vanilla attention", published="1.4"))  # fmt: skip
    many = _seeds(found, variant="csa_random", attention__count=16)
    if many and randoms:
        ranked = sorted(randoms, key=lambda key: found.score(key))
        median = ranked[len(ranked) // 2]
        judged.append(higher(found, many[0], median, "An ensemble of 16 random projections is "
                             "better than the median single one"))  # fmt: skip
    learned = _first(found, "csa_learned")
    if learned is None:
        how = "none was given: sclip-lab learn-projection, then attention.projection_file=..."
        judged.append(nothing("A learned projection is best", how, "1.4"))
    elif csa:
        judged.append(
            higher(
                found, learned, csa, "A learned projection is better than q and k", published="1.4"
            )
        )
    return judged


def _ensemble(found: Found) -> Figure | None:
    table = pick(found, variant="csa_random")
    counts = sorted({int(v) for v in table.get("attention.count", ())})
    groups = [_seeds(found, variant="csa_random", attention__count=n) for n in counts]
    if len(counts) < 2:
        return None
    lines = {
        "random, seed 0": line(found, "attention.count", variant="csa_random", attention__seed=0)
    }
    references = {"CSA (q + k)": _first(found, "csa"), "mean of q and k": _first(found, "csa_mean")}
    figure = curves(found, {"random projections in the ensemble": lines}, references,
                    log=["random projections in the ensemble"])  # fmt: skip
    ax = figure.axes[0]
    for count, keys in zip(counts, groups, strict=True):
        scores = 100 * found.cells.loc[keys, "miou"]
        label = "single seeds" if count == counts[0] else None
        ax.plot([count] * len(scores), scores, "_", color="black", markersize=7, zorder=3,
                label=label)  # fmt: skip
    for place, (name, variant) in enumerate(FORMS.items(), start=1):
        keys = _seeds(found, variant=variant, attention__count=1)
        if keys:
            scores = 100 * found.cells.loc[keys, "miou"]
            ax.plot([1.0 + 0.1 * place] * len(keys), scores, "x", color=COLORS[place],
                    markersize=4, label=f"one {name}, {len(keys)} seeds")  # fmt: skip
    ax.legend(fontsize=6, loc="upper right", bbox_to_anchor=(1, 0.95), edgecolor="none")
    figure.set_label(
        "ensembles of n random projections (gaussian, of head_dim) over seeds; band: 95 % interval "
        "over photos of seed 0; crosses: single orthogonal ones, and ones of the full width"
    )
    for legend in figure.legends:
        legend.remove()
    return figure


def _figures(found: Found) -> dict[str, Figure]:
    drawn: dict[str, Figure | None] = {"projections_ensemble": _ensemble(found)}
    shown = [key for v in ("csa", *SINGLE, "csa_random", "csa_random_orthogonal", "vanilla")
             if (key := _first(found, v))]  # fmt: skip
    correlations = map_correlations(found, shown)
    if correlations is not None:
        drawn["projections_maps"] = correlation_figure(correlations)
    if found.specs:
        drawn["projections_inner_products"] = preserved_figure(next(iter(found.specs.values())))
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _tables(found: Found) -> dict[str, pd.DataFrame]:
    rows = []
    for variant in ("csa_random", "csa_random_orthogonal", "csa_random_full"):
        table = pick(found, variant=variant)
        if table.empty:
            continue
        for count, group in table.groupby("attention.count", sort=True):
            scores = group["miou"].to_numpy(float)
            rows.append(
                {"variant": variant, "matrices": int(str(count)), "seeds": len(scores)}
                | {"mean": scores.mean(), "lowest": scores.min(), "highest": scores.max()}
                | {"std": float(np.std(scores, ddof=1)) if len(scores) > 1 else np.nan}
            )
    fixed = found.cells[~found.cells["variant"].str.startswith("csa_random")].index
    tables = {"projections": published.scores(found.of([*fixed, *_seeds(
        found, variant="csa_random", attention__count=1, attention__seed=0)]))}  # fmt: skip
    if rows:
        tables["projections_random"] = pd.DataFrame(rows)
        tables["projections_random"].attrs["caption"] = "random projections over seeds, mIoU x100"
    return tables


STUDY = Study(
    question="Which projection do tokens have to be correlated through: none, q, k, v, both, a "
    "random or a learned one? And why does it hardly matter?",
    verdicts=_verdicts,
    figures=_figures,
    tables=_tables,
    order=1,
)
