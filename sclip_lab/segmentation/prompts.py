"""Class names to text embeddings: the mean over templates, cached on disk by digest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sclip_lab.core import files
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.identity import digest
from sclip_lab.core.progress import Bar
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone

MOST_ROWS = 20_000
# Embeddings by text tower, templates, query and truncation, the oldest first.
_rows: dict[tuple[str, tuple[str, ...], str, bool], Tensor] = {}


def templates(choice: str | Sequence[str]) -> tuple[str, ...]:
    """The prompts of a named set, or the prompts themselves: text with one ``{}`` each."""
    if not isinstance(choice, str):
        return tuple(choice)
    from sclip_lab.network.loading import TEMPLATE_SETS  # imports open_clip, which is slow

    if choice not in TEMPLATE_SETS:
        keys = "protocol.templates or protocol.second_templates"
        raise unknown(f"set in {keys}", choice, TEMPLATE_SETS)
    return TEMPLATE_SETS[choice]


def embed_vocabulary(
    backbone: Backbone,
    vocabulary: Vocabulary,
    prompts: str | Sequence[str] = "openai_imagenet",
    cache: Path | None = None,
    progress: bool = False,
    truncate: bool = False,
) -> Tensor:
    """Unit text embeddings, (queries, embed_dim) float32: prompts normalised, averaged, normalised.

    A query is embedded once in a process: its embedding does not depend on other queries.

    Args:
        vocabulary: has the queries, which are embedded in order.
        prompts: a template set's name, or templates.
        cache: directory of finished embeddings, or None.
        progress: show a bar.
        truncate: cut texts that are longer than the text tower reads, instead of refusing them.

    Raises:
        LabError: a text that is too long, or an embedding that is not finite.
    """
    chosen = templates(prompts)
    keys = [(backbone.text_key, chosen, query, truncate) for query in vocabulary.queries]
    missing = [key for key in dict.fromkeys(keys) if key not in _rows]
    name = digest([backbone.text_key, chosen, vocabulary.queries, truncate])
    path = None if cache is None else cache / f"{name}.safetensors"
    if path is not None:
        finished = _cached(path, name, (len(keys), backbone.embed_dim))
        if finished is not None:
            return finished
    embedded = {key: _rows[key] for key in keys if key in _rows}
    while _rows and len(_rows) + len(missing) > MOST_ROWS:
        _rows.pop(next(iter(_rows)))
    for key in Bar(missing, "text embeddings", disable=not progress):
        embedded[key] = _rows[key] = _embed(backbone, chosen, key[2], truncate)
    text = torch.stack([embedded[key] for key in keys])
    if path is not None:
        files.sweep(path.parent)
        files.write_tensors(path, {"text": text}, _belongs(name))
    return text


def _embed(backbone: Backbone, templates: Sequence[str], query: str, truncate: bool) -> Tensor:
    texts = [template.format(query) for template in templates]
    try:
        encoded = backbone.encode_text(texts, truncate=truncate)
    except LabError as error:
        raise LabError(f"class name {query[:60]!r}: {error}") from error
    embedded = torch.nn.functional.normalize(encoded, dim=-1)
    return torch.nn.functional.normalize(embedded.mean(dim=0), dim=-1)


def _cached(path: Path, name: str, shape: tuple[int, int]) -> Tensor | None:
    """Return the cached embeddings, or None if there are none. A damaged file is moved aside."""
    try:
        text = files.read_tensors(path, _belongs(name))[0]["text"]
        if text.shape != shape or not torch.isfinite(text).all():
            raise files.Damaged(path, f"holds no finite text embeddings of shape {shape}")
    except FileNotFoundError:
        return None
    except files.Damaged as damaged:
        files.set_aside(path.parent.parent, damaged)
        return None
    return text


def _belongs(name: str) -> dict[str, str]:
    return {"kind": "text", "key": name}
