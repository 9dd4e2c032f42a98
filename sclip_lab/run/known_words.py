"""The few words that the embedded network has seen, and a warning of all others."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def warn(names: Sequence[str]) -> None:
    """The embedded network answers to any word, but has seen few."""
    from sclip_lab.data.vocabulary import Vocabulary

    known = Vocabulary.named("patchwork").names
    words = [word.strip() for name in names for word in name.split(",")]
    strange = [word for word in words if word not in known]
    if strange:
        print(
            f"warning: patchwork_vit knows {len(known)} words, not {', '.join(strange)}: what it "
            f"says of them means nothing. It knows {', '.join(known)}; --backbone "
            "ViT-B-16-quickgelu --pretrained openai is CLIP",
            file=sys.stderr,
        )
