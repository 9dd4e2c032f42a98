"""A stranger's package, as its author would lay it out: a variant, a readout and a data set."""

from __future__ import annotations

from pathlib import Path

MODULE = '''
"""Ideas of one's own."""

import numpy as np
from sclip_lab.data.base import Sample
from sclip_lab.data.vocabulary import Vocabulary

from {package}.helpers import softened


def heated(whatever, heat=2.0):
    """Attention at another temperature."""
    return softened(whatever, heat)


def shifted(seen, words, by=0.1):
    """Cosines, with the first class ahead."""
    from sclip_lab.segmentation.readouts.cosine import cosine

    logits = cosine(seen, words).clone()
    logits[..., 0] += by
    return logits


class Squares:
    """Two photos of two squares; a data set by its protocol alone."""

    def __init__(self, name, side=64):
        self.name, self.side, self.ignore_index = name, side, 255
        self.vocabulary = Vocabulary("squares", (("left", "west"), ("right",)))
        self.names = ["first", "second"]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image = np.full((self.side, self.side, 3), 40 + index, np.uint8)
        image[:, self.side // 2 :] = 200
        mask = np.zeros((self.side, self.side), np.uint8)
        mask[:, self.side // 2 :] = 1
        return Sample(self.names[index], image, mask)

    @property
    def key(self):
        return f"squares {{self.side}}"
'''
HELPERS = """def softened(ctx, heat):
    return ctx.softmax(ctx.scores(ctx.query, ctx.key, heat))
"""
YAML = {
    "attention/heated.yaml": "# Attention, heated\n"
    "defaults: [_variant, _self_]\n_target_: {package}.ideas.heated\nheat: 2.0\n",
    "readout/shifted.yaml": "# @package protocol.readout\n# The first class ahead\n"
    "_target_: {package}.ideas.shifted\n",
    "dataset/squares.yaml": "# Two squares\n_target_: {package}.ideas.Squares\nname: squares\n",
}


def write(folder: Path, package: str) -> Path:
    """The package below ``folder``; its yaml files lie in ``<package>/conf``."""
    root = folder / package
    root.mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "ideas.py").write_text(MODULE.format(package=package))
    (root / "helpers.py").write_text(HELPERS)
    for name, text in YAML.items():
        path = root / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(package=package))
    return root
