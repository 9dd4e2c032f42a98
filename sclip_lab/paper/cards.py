"""What a network of this package was trained to show, as its model card lists it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"
HEADING = "## Trained until these claims held"


@cache
def trained_to_show(backbone: str) -> frozenset[str]:
    """The claims, as "study: sentence", that a network was trained until they held.

    Args:
        backbone: its name. A network without a card in this package was trained for none of them.
    """
    card = ASSETS / backbone / "README.md"
    if not card.is_file():
        return frozenset()
    _, _, rest = card.read_text(encoding="utf-8").partition(HEADING)
    lines = rest.partition("\n## ")[0].splitlines()
    return frozenset(line.removeprefix("- ") for line in lines if line.startswith("- "))
