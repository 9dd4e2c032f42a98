"""Does anything simpler do as well as CSA: sharper, more local, or earlier attention."""

from __future__ import annotations

from matplotlib.figure import Figure

from sclip_lab.paper import published
from sclip_lab.paper.claims import Claim, best, higher
from sclip_lab.paper.studies import Study
from sclip_lab.report.curves import curves, line, number, spec
from sclip_lab.report.figures import COLORS
from sclip_lab.report.found import Found

FAMILIES = {
    "sharpened": "attention.temperature",
    "local": "attention.prior.radius",
    "early": "attention.source",
}
TITLES = {
    "sharpened": "temperature of vanilla attention",
    "local": "radius of local attention, patches",
    "early": "attention of block (share of depth)",
}


def _families(found: Found) -> dict[str, dict[float, str]]:
    lines = {name: line(found, key, variant=name) for name, key in FAMILIES.items()}
    vanilla, maskclip = spec(found, variant="vanilla"), spec(found, variant="maskclip")
    # The ends of the curves are cells by other names.
    if vanilla:
        lines["sharpened"] = dict(sorted({**lines["sharpened"], 1.0: vanilla}.items()))
        lines["early"] = {**lines["early"], 1.0: vanilla}
    if maskclip:
        lines["local"] = {0.0: maskclip, **lines["local"]}
    return {name: places for name, places in lines.items() if len(places) > 1}


def _top(found: Found, places: dict[float, str]) -> str:
    return max(places.values(), key=lambda key: found.score(key))


def _claims(found: Found) -> list[Claim]:
    csa, vanilla = spec(found, variant="csa"), spec(found, variant="vanilla")
    lines, claims = _families(found), []
    for name, places in lines.items():
        if csa:
            text = f"CSA is better than {name} attention at any setting"
            claims.append(best(found, csa, list(places.values()), text, published="1.5"))
    if vanilla and "sharpened" in lines:
        sharper = {t: key for t, key in lines["sharpened"].items() if t < 1}
        if sharper:
            claims.append(higher(found, _top(found, sharper), vanilla, (
                "Sharpening repairs vanilla attention: the best temperature is better"
            ), family=[(key, vanilla) for key in sharper.values()]))  # fmt: skip
    for name in ("local", "early"):
        if vanilla and name in lines:
            inner = {p: key for p, key in lines[name].items() if key != vanilla}
            claims.append(higher(found, _top(found, inner), vanilla, (
                f"{name.capitalize()} attention repairs part: its best setting is above vanilla"
            ), family=[(key, vanilla) for key in inner.values()], published="1.5"))  # fmt: skip
    return claims


def _figures(found: Found) -> dict[str, Figure]:
    lines = _families(found)
    if not lines:
        return {}
    references = {"CSA": spec(found, variant="csa"), "vanilla": spec(found, variant="vanilla")}
    panels = {TITLES[name]: {name: places} for name, places in lines.items()}
    figure = curves(found, panels, references, log=[TITLES["sharpened"]])
    places = {"sharpened": (0.5, 2.0), "local": (1.0,), "early": (number("3/12"),)}
    for ax, name in zip(figure.axes, lines, strict=False):
        known = published.reference(name)
        if known is not None:
            scores = [100 * float(known["value"])] * len(places[name])
            ax.plot(places[name], scores, "D", mfc="none", color=COLORS[1], markersize=5)
            ax.set_title(f"diamond: {published.described(known)}", fontsize=6, color="0.35")
    figure.set_label(
        "diamonds: published, of ViT-B/16 on VOC21, so no target for another network or data set; "
        "the published tau = 2 has two readings, temperature 0.5 or 2"
    )
    return {"alternatives": figure}


def _lacking(found: Found) -> str:
    csa, vanilla = spec(found, variant="csa"), spec(found, variant="vanilla")
    tops = {name: _top(found, places) for name, places in _families(found).items()}
    if not csa or not vanilla or not tops:
        return ""
    gain = found.score(csa) - found.score(vanilla)
    shares = [
        f"{name} attention {100 * found.score(top):.1f} "
        f"({(found.score(top) - found.score(vanilla)) / gain:.2f} of the gain)"
        for name, top in tops.items()
    ]
    return (
        f"Vanilla scores {100 * found.score(vanilla):.1f}, CSA {100 * found.score(csa):.1f}; at "
        f"its best setting {', '.join(shares)}."
    )


STUDY = Study(
    question="Does a simpler change do as well as CSA: sharper attention, attention within a small "
    "window, or the attention of an earlier block?",
    claims=_claims,
    figures=_figures,
    answers={"alternatives": _lacking},
    order=2,
)
