"""Warn of words that the embedded network was not trained with."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from sclip_lab.paper.cards import EMBEDDED as EMBEDDED

NAMED = 10  # words that the warning lists


def usual_dataset(backbone: str) -> str | None:
    """The data set whose protocol values apply to a photo; None: the usual values."""
    return "patchwork" if backbone == EMBEDDED else None


def strange_words(names: Sequence[str], remedy: str) -> str | None:
    """A warning of words that the embedded network was not trained with; None if it knows them all.

    Synonyms in a name are separated by commas. ``remedy`` is what to type to use CLIP instead.
    """
    from sclip_lab.data.vocabulary import Vocabulary

    vocabulary = Vocabulary.named("patchwork").names
    words = [word.strip() for name in names for word in name.split(",")]
    strange = [word for word in words if word not in vocabulary]
    if not strange:
        return None
    listed = ", ".join(strange[:NAMED]) + (", ..." if len(strange) > NAMED else "")
    return (
        f"{EMBEDDED} knows {len(vocabulary)} words, not {listed}: answers for those mean "
        f"nothing. It knows {', '.join(vocabulary)}; {remedy} is CLIP"
    )


def warn_of_words(backbone: str, names: Sequence[str]) -> None:
    """Warn a script of words that the embedded network does not know; others know any word."""
    remedy = "ViT-B-16-quickgelu with pretrained=openai"
    if backbone == EMBEDDED and (warning := strange_words(names, remedy)):
        warnings.warn(warning, stacklevel=3)


def warn(names: Sequence[str]) -> None:
    """Print the warning for a command that has the option --backbone."""
    warning = strange_words(names, "--backbone ViT-B-16-quickgelu --pretrained openai")
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
