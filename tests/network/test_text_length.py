"""Texts longer than the tower reads are refused, not cut in silence."""

from __future__ import annotations

import pytest
import torch

from sclip_lab.core.errors import LabError
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation.prompts import embed_vocabulary

LONG = "a bird with " + "very " * 80
TEXTS = [LONG + "red wings", LONG + "blue wings"]


def test_a_text_that_is_too_long_is_refused(backbone: Backbone) -> None:
    with pytest.raises(
        LabError, match=r"has 8\d tokens, and 1 more; .* reads 77.*protocol\.truncate"
    ):
        backbone.encode_text(TEXTS)
    cut = backbone.encode_text(TEXTS, truncate=True)
    assert torch.equal(cut[0], cut[1])  # what made it worth an error


def test_the_limit_is_exact(backbone: Backbone) -> None:
    words = " ".join(["cat"] * 75)  # with start and end 77 tokens
    backbone.encode_text([words])
    with pytest.raises(LabError, match="has 78 tokens; "):
        backbone.encode_text([words + " cat"])


def test_the_class_is_named(backbone: Backbone) -> None:
    vocabulary = Vocabulary("birds", ((TEXTS[0],), (TEXTS[1],)))
    with pytest.raises(LabError, match="class name 'a bird with very"):
        embed_vocabulary(backbone, vocabulary, ("{}",))
    assert len(embed_vocabulary(backbone, vocabulary, ("{}",), truncate=True)) == 2


def test_what_was_cut_is_not_served_to_others(backbone: Backbone, tmp_path) -> None:  # type: ignore[no-untyped-def]
    vocabulary = Vocabulary("birds", ((TEXTS[0],), (TEXTS[1],)))
    embed_vocabulary(backbone, vocabulary, ("{}",), tmp_path, truncate=True)
    with pytest.raises(LabError, match="reads 77"):
        embed_vocabulary(backbone, vocabulary, ("{}",), tmp_path)
