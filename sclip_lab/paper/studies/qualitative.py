"""Photos by how much CSA gains over vanilla: the best, a middling and the worst."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from sclip_lab import results
from sclip_lab.paper.claims import Claim, Comparison, difference_in_words, gated, missing
from sclip_lab.paper.studies import Study
from sclip_lab.report import pictures
from sclip_lab.report.curves import pair
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.gains import per_photo
from sclip_lab.report.tables import captioned

EACH = 2  # photos of each kind


def chosen(evidence: Evidence) -> dict[str, list[str]]:
    """Names of photos with largest, median and smallest gain; no photo is named twice."""
    csa_vanilla = pair(evidence)
    if csa_vanilla is None:
        return {}
    photos = [str(name) for name in per_photo(evidence, *csa_vanilla).index]
    each = min(EACH, max(1, len(photos) // 3))
    largest, others = photos[::-1][:each], photos[:-each]
    smallest, others = others[:each], others[each:]
    middle = max(0, (len(others) - each) // 2)
    median = others[middle : middle + each]
    return {"largest gain": largest, "median": median, "smallest gain": smallest}


def _photos(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(name for names in chosen(evidence).values() for name in names))


def _claims(evidence: Evidence) -> list[Claim]:
    text = "CSA is better than vanilla attention on most photos"
    csa_vanilla = pair(evidence)
    if csa_vanilla is None:
        return [missing(text, "not computed")]
    from scipy.stats import binomtest

    gains = per_photo(evidence, *csa_vanilla)["gain"]
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    key = ("sign", *sorted(map(evidence.comparisons.counts, csa_vanilla)))
    test = Comparison.of(key, p, better > worse)
    facts = (
        f"better on {better}, worse on {worse} of {len(gains)} photos; "
        f"{difference_in_words(evidence, *csa_vanilla)}; sign test"
    )
    return [gated(evidence, Claim(text, facts, (test,)), csa_vanilla)]


def _figures(evidence: Evidence) -> dict[str, Figure]:
    shown = []
    by_name = {picture.name: picture for picture in evidence.pictures}
    for kind, names in chosen(evidence).items():
        shown += [replace(by_name[n], name=f"{kind}: {n}") for n in names if n in by_name]
    if not shown:
        return {}
    figure = pictures.panel(shown, named=True)
    figure.set_label("photos by the gain of CSA over vanilla attention; in the corner: mIoU x100 "
                     "on the photo by itself")  # fmt: skip
    return {"qualitative": figure}


def _tables(evidence: Evidence) -> dict[str, pd.DataFrame]:
    csa_vanilla = pair(evidence)
    if csa_vanilla is None:
        return {}
    table = per_photo(evidence, *csa_vanilla).reset_index()
    table.columns = ["photo", evidence.name(csa_vanilla[0]), evidence.name(csa_vanilla[1]), "gain"]
    table = table.assign(photo=table["photo"].astype(str))
    extremes = pd.concat([table.tail(5).iloc[::-1], table.head(5).iloc[::-1]]).drop_duplicates()
    caption = "mIoU x100 on single photos: five largest gains, five smallest"
    return {"qualitative": captioned(extremes.reset_index(drop=True), caption)}


def _failures(evidence: Evidence) -> str:
    csa_vanilla = pair(evidence)
    if csa_vanilla is None:
        return ""
    photos = per_photo(evidence, *csa_vanilla)
    lowest, least = photos["a"].idxmin(), photos["gain"].idxmin()
    scores = results.iou(evidence.of([csa_vanilla[0]]).df).dropna(subset="iou")
    worst = scores.sort_values("iou").iloc[0]
    return (
        f"CSA is worst on {lowest} ({100 * photos['a'].min():.1f} mIoU on the photo by itself), "
        f"gains least on {least} ({100 * photos['gain'].min():+.1f}), and knows {worst['class']} "
        f"least ({100 * worst['iou']:.1f} IoU); the figure shows such photos."
    )


STUDY = Study(
    question="What does the gain look like: where it is largest, in the middle, and smallest?",
    claims=_claims,
    figures=_figures,
    tables=_tables,
    photos=_photos,
    answers={"failures": _failures},
    order=7,
)
