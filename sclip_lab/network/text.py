"""Text embeddings of a protocol, for attention and readouts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """Unit text embeddings on the network's device.

    Attributes:
        targets: (queries, embed_dim), the texts that pixels are labelled with.
        auxiliary: (words, embed_dim), words that help to separate patches and are never labels;
            can be empty.
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
        """sha256 of targets and auxiliary words."""
        total = hashlib.sha256(f"{len(self.targets)}".encode())
        total.update(self.all.detach().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()
