"""Warn of words that the embedded network was not trained with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from sclip_lab.paper.cards import EMBEDDED as EMBEDDED

NAMED = 10  # words that the warning lists


def usual_dataset(backbone: str) -> str | None:
    """The data set whose protocol values apply to a photo; None: the usual values."""
    return "patchwork" if backbone == EMBEDDED else None


def strange_words(backbone: str, names: Sequence[str]) -> str | None:
    """A warning of words that the embedded network was not trained with; None if it knows them all.
    Other networks know any word. Synonyms in a name are separated by commas."""
    from sclip_lab.data.vocabulary import Vocabulary

    if backbone != EMBEDDED:
        return None
    vocabulary = Vocabulary.named("patchwork").names
    words = [word.strip() for name in names for word in name.split(",")]
    strange = [word for word in words if word not in vocabulary]
    if not strange:
        return None
    listed = ", ".join(strange[:NAMED]) + (", ..." if len(strange) > NAMED else "")
    return (
        f"{EMBEDDED} knows {len(vocabulary)} words, not {listed}: answers for those mean "
        f"nothing. It knows {', '.join(vocabulary)}; CLIP is the backbone ViT-B-16-quickgelu with "
        "pretrained openai"
    )


def warn_of_words(backbone: str, names: Sequence[str]) -> None:
    """Warn a script, or the user of a command, of `strange_words`."""
    if warning := strange_words(backbone, names):
        warnings.warn(warning, stacklevel=3)
