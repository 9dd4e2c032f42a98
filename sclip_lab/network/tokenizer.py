"""Turn texts into tokens, and measure the texts before they are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.identity import digest

# Texts by whose tokens tokenizers are told apart.
PROBES = ("a photo of a cat.", "Zebra crossing, ÄÖ-7: it's 1984!", "traffic_light   (red)")
LONG = 4  # texts are measured up to so many times the context length


class Tokenizer:
    """A tokenizer as open_clip has them. It is made on first use, because some come from a hub and
    images need none.

    Args:
        name: of the network, for messages.
        make: returns the tokenizer, a function of texts that takes ``context_length``.
        is_own: whether it is the caller's function or folder, which no name tells from others.
    """

    def __init__(self, name: str, make: Callable[[], Any], is_own: bool = False) -> None:
        self.name, self.is_own = name, is_own
        self._make = make

    @cached_property
    def key(self) -> str | None:
        """Digest of the tokens of some texts, if it is the caller's own; None otherwise."""
        return digest(self(PROBES).tolist()) if self.is_own else None

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
        function = self._function
        try:
            tokens = function(list(texts))
        except Exception as error:  # the caller's may be anything
            raise LabError(f"the tokenizer of {self.name} failed on texts: {error!r}") from error
        is_whole = isinstance(tokens, Tensor) and not tokens.is_floating_point()
        if not is_whole or tokens.ndim != 2 or len(tokens) != len(texts):
            actual = tuple(getattr(tokens, "shape", ())) or type(tokens).__name__
            raise LabError(
                f"the tokenizer of {self.name} gave {actual} for {len(texts)} texts; whole numbers "
                f"in a tensor ({len(texts)}, context length) are needed"
            )
        return tokens

    def check_lengths(self, texts: Sequence[str], network: str) -> None:
        """Refuse texts that have more tokens than the network of this name reads, start and end
        included. Tokenizers that take no ``context_length`` are not checked.

        Raises:
            LabError: naming the first such text, its length (up to 4 times what the network reads)
                and the network's.
        """
        context = self(texts[:1]).shape[1]
        try:
            tokens = self._function(list(texts), context_length=LONG * context)
        except TypeError:
            return
        padding = tokens[:, -1:]  # the padding, unless a text fills all tokens
        lengths = ((tokens != padding) * torch.arange(1, tokens.shape[1] + 1)).amax(dim=1).tolist()
        long = [(text, n) for text, n in zip(texts, lengths, strict=True) if n > context]
        if long:
            text, length = long[0]
            more = f", and {len(long) - 1} more" if len(long) > 1 else ""
            raise LabError(
                f"text {text[:60]!r} has {length} tokens{more}; {network} reads {context} and "
                "would not see the rest. Shorten it, or allow the cut by protocol.truncate=true"
            )
