"""The network of this package, and what its model card says that it was trained to show."""

from __future__ import annotations

from functools import cache
from pathlib import Path

EMBEDDED = "patchwork_vit"
ASSETS = Path(__file__).resolve().parents[1] / "assets"
HEADING = "## Trained until these claims held"


@cache
def trained_to_show(backbone: str) -> frozenset[str]:
    """The claims ("study: sentence") that a network was trained to show, as its card lists them.

    Args:
        backbone: its name. A network without a card in this package was trained for none of them.
    """
    card = ASSETS / backbone / "README.md"
    if not card.is_file():
        return frozenset()
    _, _, rest = card.read_text(encoding="utf-8").partition(HEADING)
    lines = rest.partition("\n## ")[0].splitlines()
    return frozenset(line.removeprefix("- ") for line in lines if line.startswith("- "))
