"""Does anything simpler do as well as CSA: sharper, more local, or earlier attention?"""

from __future__ import annotations

from matplotlib.figure import Figure

from sclip_lab.paper.claims import Claim, best, higher
from sclip_lab.paper.studies import Study, of_gain
from sclip_lab.report.curves import curves, line, specs
from sclip_lab.report.evidence import Evidence

# Variant -> its parameter, and the places of other variants on the parameter's axis.
FAMILIES = {
    "sharpened": ("attention.temperature", {1.0: "vanilla"}),
    "local": ("attention.prior.radius", {0.0: "maskclip"}),
    "early": ("attention.source", {1.0: "vanilla"}),
}
TITLES = {
    "sharpened": "temperature of vanilla attention",
    "local": "radius of local attention, patches",
    "early": "attention of block (share of depth)",
}


def _families(evidence: Evidence) -> dict[str, dict[float, str]]:
    lines = {name: line(evidence, key, ends, variant=name)
             for name, (key, ends) in FAMILIES.items()}  # fmt: skip
    return {name: places for name, places in lines.items() if len(places) > 1}


def _top(evidence: Evidence, places: dict[float, str]) -> str:
    return max(places.values(), key=lambda key: evidence.score(key))


def _claims(evidence: Evidence) -> list[Claim]:
    csa, vanilla = specs(evidence, "csa", "vanilla")
    lines, claims = _families(evidence), []
    for name, places in lines.items():
        if csa:
            text = f"CSA is better than {name} attention at any setting"
            claims.append(best(evidence, csa, list(places.values()), text, published="1.5"))
    if vanilla and "sharpened" in lines:
        sharper = {t: key for t, key in lines["sharpened"].items() if t < 1}
        if sharper:
            claims.append(higher(evidence, _top(evidence, sharper), vanilla, (
                "Sharpening repairs vanilla attention: the best temperature is better"
            ), family=[(key, vanilla) for key in sharper.values()]))  # fmt: skip
    for name in ("local", "early"):
        if vanilla and name in lines:
            inner = {p: key for p, key in lines[name].items() if key != vanilla}
            claims.append(higher(evidence, _top(evidence, inner), vanilla, (
                f"{name.capitalize()} attention repairs part: its best setting is above vanilla"
            ), family=[(key, vanilla) for key in inner.values()], published="1.5"))  # fmt: skip
    return claims


def _figures(evidence: Evidence) -> dict[str, Figure]:
    lines = _families(evidence)
    if not lines:
        return {}
    references = dict(zip(("CSA", "vanilla"), specs(evidence, "csa", "vanilla"), strict=True))
    panels = {TITLES[name]: {name: places} for name, places in lines.items()}
    figure = curves(evidence, panels, references, log=[TITLES["sharpened"]])
    figure.set_label(
        "simpler changes of vanilla attention, each over its parameter; band: 95 % interval over "
        "photos; the paper's tau = 2 has two readings, temperature 0.5 or 2"
    )
    return {"alternatives": figure}


def _lacking(evidence: Evidence) -> str:
    csa, vanilla = specs(evidence, "csa", "vanilla")
    tops = {name: _top(evidence, places) for name, places in _families(evidence).items()}
    if not csa or not vanilla or not tops:
        return ""
    gain = evidence.score(csa) - evidence.score(vanilla)
    shares = [
        f"{name} attention {100 * evidence.score(top):.1f} "
        f"({of_gain(evidence.score(top) - evidence.score(vanilla), gain)})"
        for name, top in tops.items()
    ]
    return (
        f"Vanilla scores {100 * evidence.score(vanilla):.1f}, CSA {100 * evidence.score(csa):.1f}; "
        f"at its best setting {', '.join(shares)}."
    )


STUDY = Study(
    question="Does a simpler change do as well as CSA: sharper attention, attention within a small "
    "window, or the attention of an earlier block?",
    claims=_claims,
    figures=_figures,
    answers={"alternatives": _lacking},
    order=2,
)
