"""Texts to tokens, with the lengths before anything is cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError

LONG = 4  # times the context length, in which a text is measured


class Tokenizer:
    """A tokenizer as open_clip has them. It is made on first use, because some come from a hub and
    images need none.

    Args:
        name: of the network, for messages.
        make: returns the tokenizer, a function of texts that takes ``context_length``.
    """

    def __init__(self, name: str, make: Callable[[], Callable[..., Tensor]]) -> None:
        self.name = name
        self._make = make

    @cached_property
    def _function(self) -> Any:
        try:
            return self._make()
        # A hub's client fails in many ways; in each of them there is no tokenizer.
        except Exception as error:
            raise LabError(
                f"the tokenizer of {self.name} cannot be loaded ({error}). It comes from a hub or "
                "a local folder and needs the package transformers. Images go without it"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return tokens, (texts, context length) int64. Longer texts are cut."""
        return self._function(list(texts))

    def lengths(self, texts: Sequence[str]) -> list[int] | None:
        """Count the tokens of each text before it is cut, start and end included. Counting stops at
        4 times the context length. None for a tokenizer that cannot say."""
        context = self(texts[:1]).shape[1]
        try:
            tokens = self._function(list(texts), context_length=LONG * context)
        except TypeError:
            return None
        padding = tokens[:, -1:]  # of a text that is not longer than that
        used = (tokens != padding) * torch.arange(1, tokens.shape[1] + 1)
        return used.amax(dim=1).tolist()


def check_lengths(tokenize: Any, texts: Sequence[str], name: str) -> None:
    """Refuse texts that are longer than the network of this name reads. Another function than a
    `Tokenizer` is not checked.

    Raises:
        LabError: naming the first such text, its length and the network's.
    """
    if not isinstance(tokenize, Tokenizer) or not texts:
        return
    lengths, context = tokenize.lengths(texts), tokenize(texts[:1]).shape[1]
    long = [(text, n) for text, n in zip(texts, lengths or (), strict=False) if n > context]
    if long:
        text, length = long[0]
        more = f", and {len(long) - 1} more" if len(long) > 1 else ""
        raise LabError(
            f"text {text[:60]!r} has {length} tokens{more}; {name} reads {context} and would not "
            "see the rest. Shorten it, or allow the cut by protocol.truncate=true"
        )
