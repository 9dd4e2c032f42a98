"""The texts of a protocol, as attention and readouts see them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """Unit text embeddings, on the network's device.

    Attributes:
        targets: (queries, embed_dim), what pixels are labelled with.
        auxiliary: (words, embed_dim), words that only help to tell patches apart; may be empty.
    """

    targets: Tensor
    auxiliary: Tensor

    @classmethod
    def of(cls, targets: Tensor, auxiliary: Tensor | None = None) -> Text:
        return cls(targets, targets[:0] if auxiliary is None else auxiliary)

    @property
    def all(self) -> Tensor:
        """(queries + words, embed_dim), targets first."""
        return torch.cat([self.targets, self.auxiliary])

    @cached_property
    def digest(self) -> str:
        """sha256 of the values of both."""
        total = hashlib.sha256(f"{len(self.targets)}".encode())
        total.update(self.all.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()
