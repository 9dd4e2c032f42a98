"""Short side, window and stride: what resolution costs and what it brings."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pandas as pd

from sclip_lab.paper.claims import Claim, best, difference_in_words, higher, missing
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import pick
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.figures import Figure, grouped
from sclip_lab.report.tables import captioned

if TYPE_CHECKING:
    from sclip_lab.evaluation.spec import Spec

SIZES = ("short_side", "crop_size", "stride")
REPEATS = 3
ONE_WINDOW = "one window holds the whole photo, so the stride changes nothing"


def _settings(evidence: Evidence, variant: str) -> dict[tuple[int, int, int], str]:
    table, columns = pick(evidence, variant=variant), [f"protocol.{name}" for name in SIZES]
    if not set(columns) <= set(table):
        return {}  # cells of another program lack these columns
    # Cells with null for a size (the photo as it is, or as one window) cannot be compared by it.
    sides = table[columns].dropna().astype(int)
    settings = zip(sides.itertuples(index=False, name=None), map(str, sides.index), strict=True)
    return dict(sorted(settings))


def _in_words(sizes: tuple[int, int, int]) -> str:
    return "/".join(map(str, sizes))


def seconds(spec: Spec) -> float:
    """Seconds from the first photo's pixels to its patch embeddings, the fastest of three runs."""
    from sclip_lab.segmentation.pipeline import encode_photo

    photo, durations = spec.dataset[0].image, []
    for _ in range(REPEATS):
        start = time.perf_counter()
        _, encoded = encode_photo(spec.backbone, photo, spec.protocol, spec.attention)
        encoded.patches.sum().item()  # waits for a GPU
        durations.append(time.perf_counter() - start)
    return min(durations)


def _claims(evidence: Evidence) -> list[Claim]:
    csa, vanilla = _settings(evidence, "csa"), _settings(evidence, "vanilla")
    if len(csa) < 2:
        return [missing("Larger photos are better for CSA", "only one setting was computed")]
    claims = []
    names = {spec: f"{variant} {_in_words(sizes)}" for variant, settings in (("csa", csa),
             ("vanilla", vanilla)) for sizes, spec in settings.items()}  # fmt: skip
    sides = sorted({side for side, _, _ in csa})
    for small, large in pairwise(sides):
        pair = [(small, c, s) for a, c, s in csa if a == large and (small, c, s) in csa]
        if pair:
            text = f"CSA is better at short side {large} than at {small}, with equal windows"
            setting = pair[0]
            larger = csa[(large, setting[1], setting[2])]
            claims.append(higher(evidence, larger, csa[setting], text,
                                 published="1.6", names=names))  # fmt: skip
    for (side, crop), strides in _strides(csa).items():
        dense, sparse = (csa[side, crop, strides[k]] for k in (0, -1))
        text = f"Windows that overlap are better: stride {strides[0]} beats {strides[-1]}"
        text += f" at short side {side}"
        claims.append(higher(evidence, dense, sparse, text, names=names, same=ONE_WINDOW))
    top = max(csa, key=lambda sizes: evidence.score(csa[sizes]))
    text = f"Short side / window / stride {_in_words(top)} is better than all others"
    claims.append(best(evidence, csa[top], list(csa.values()), text, names=names))
    text = "CSA is better than vanilla attention at the sizes that are best for CSA"
    claims.append(higher(evidence, csa[top], vanilla.get(top), text, names=names))
    return claims


def _strides(settings: dict[tuple[int, int, int], str]) -> dict[tuple[int, int], list[int]]:
    """(short side, window) -> strides of cells with these sizes, where there are several."""
    strides: dict[tuple[int, int], list[int]] = {}
    for side, crop, stride in sorted(settings):
        strides.setdefault((side, crop), []).append(stride)
    return {sizes: steps for sizes, steps in strides.items() if len(steps) > 1}


def _figures(evidence: Evidence) -> dict[str, Figure]:
    """Bars by setting, each with what it costs where the network is at hand."""
    grid: dict[str, dict[str, str]] = {}
    csa = _settings(evidence, "csa")
    costs = {sizes: f": {1000 * seconds(evidence.specs[spec]):.0f} ms"
             for sizes, spec in csa.items() if spec in evidence.specs}  # fmt: skip
    for variant in ("vanilla", "csa"):
        for sizes, spec in _settings(evidence, variant).items():
            grid.setdefault(f"{_in_words(sizes)}{costs.get(sizes, '')}", {})[variant] = spec
    if len(grid) < 2:
        return {}
    figure = grouped(evidence, grid)
    figure.set_label(
        "short side / window / stride in pixels, and how long CSA takes for one photo, measured now"
    )
    return {"preprocessing": figure}


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    rows = [
        {**dict(zip(SIZES, sizes, strict=True)), "variant": variant, "mIoU": evidence.score(spec)}
        for variant in ("vanilla", "csa")
        for sizes, spec in _settings(evidence, variant).items()
    ]
    caption = "mIoU x100; short side, window and stride in pixels"
    return {"preprocessing": captioned(rows, caption)}


def _sizes(evidence: Evidence) -> str:
    csa = _settings(evidence, "csa")
    if len(csa) < 2:
        return ""
    top, low = (
        pick_one(csa, key=lambda sizes: evidence.score(csa[sizes])) for pick_one in (max, min)
    )
    names = {csa[sizes]: f"short side / window / stride {_in_words(sizes)}" for sizes in (top, low)}
    return f"CSA at {difference_in_words(evidence, csa[top], csa[low], names)}."


STUDY = Study(
    question="How large should photos and windows be, how much should windows overlap, and what "
    "does a point of mIoU cost?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    answers={"preprocessing": _sizes},
    order=4,
)
