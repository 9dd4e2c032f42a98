"""Class names to text embeddings: templates, averaged; cached on disk by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sclip_lab.core import atomic, sealed
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone


def templates(choice: str | Sequence[str]) -> tuple[str, ...]:
    """The prompts of a named set, or the given ones: text with one ``{}`` each."""
    if not isinstance(choice, str):
        return tuple(choice)
    from sclip_lab.network.loading import TEMPLATE_SETS  # open_clip: too slow for a finished sweep

    if choice not in TEMPLATE_SETS:
        raise unknown("template set", choice, TEMPLATE_SETS)
    return TEMPLATE_SETS[choice]


def embed_vocabulary(
    backbone: Backbone,
    vocabulary: Vocabulary,
    prompts: str | Sequence[str] = "openai_imagenet",
    cache: Path | None = None,
    progress: bool = False,
    rows: dict[Any, Tensor] | None = None,
    truncate: bool = False,
) -> Tensor:
    """One unit text embedding per query: prompts normalised, averaged, normalised again.

    Args:
        backbone: whose text tower embeds.
        vocabulary: its queries are embedded in order.
        prompts: a template set's name, or templates.
        cache: directory of finished embeddings, or None.
        progress: show a bar.
        rows: embeddings that are known, by text tower, templates and query; those of this
            vocabulary are put in, for the next one that shares queries.
        truncate: cut texts that are longer than the text tower reads, instead of refusing them.

    Raises:
        LabError: a text that is too long, or an embedding that is not finite.

    Returns:
        (queries, embed_dim) float32, unit norm. A query's does not depend on its company.
    """
    chosen = templates(prompts)
    # What was cut is found again only by those who allow it.
    identity = [backbone.text_key, chosen, vocabulary.queries, *(["truncated"] if truncate else [])]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    path = None if cache is None else cache / f"{digest}.safetensors"
    shape = (len(vocabulary.queries), backbone.embed_dim)
    known = None if path is None else _cached(path, digest, shape)
    if known is not None:
        return known
    rows = {} if rows is None else rows
    queries = tqdm(vocabulary.queries, "text embeddings", disable=not progress)
    for query in queries:
        key = backbone.text_key, chosen, query, truncate
        if key not in rows:
            rows[key] = _embed(backbone, chosen, query, truncate)
    known_rows = [(backbone.text_key, chosen, query, truncate) for query in vocabulary.queries]
    text = torch.stack([rows[key] for key in known_rows])
    if path is not None:
        atomic.sweep(path.parent)
        sealed.write_tensors(path, {"text": text}, _belongs(digest))
    return text


def _embed(backbone: Backbone, templates: Sequence[str], query: str, truncate: bool) -> Tensor:
    texts = [template.format(query) for template in templates]
    try:
        encoded = backbone.encode_text(texts, truncate=truncate)
    except LabError as error:
        raise LabError(f"class name {query[:60]!r}: {error}") from error
    embedded = torch.nn.functional.normalize(encoded, dim=-1)
    mean = torch.nn.functional.normalize(embedded.mean(dim=0), dim=-1)
    if not torch.isfinite(mean).all():
        raise LabError(f"backbone {backbone.name}: the text embedding of '{query}' is not finite")
    return mean


def _cached(path: Path, digest: str, shape: tuple[int, int]) -> Tensor | None:
    """What was kept; None, and a damaged file set aside, where it cannot be used."""
    try:
        (tensors, is_sealed), _ = sealed.read_tensors(path, _belongs(digest))
        text = tensors.get("text")
        if not is_sealed:
            raise sealed.Damaged(path, "has no seal")
        if text is None or text.shape != shape or not torch.isfinite(text).all():
            raise sealed.Damaged(path, f"holds no finite text embeddings of shape {shape}")
    except FileNotFoundError:
        return None
    except sealed.Damaged as damaged:
        sealed.set_aside(path.parent.parent, damaged)
        return None
    return text


def _belongs(digest: str) -> dict[str, str]:
    return {"kind": "text", "key": digest}
