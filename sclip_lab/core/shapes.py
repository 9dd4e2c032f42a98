"""Named shapes for annotations. In tests they are checked at each call, see tests/shapes.py.

Within a call all axes of one name have the same size. An axis marked with ``#`` may also have size
1, and is then broadcast.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

Tokens = Float[Tensor, "batch tokens width"]
PerHead = Float[Tensor, "batch heads tokens head_dim"]
Weights = Float[Tensor, "#batch #heads tokens tokens"]
Prior = Float[Tensor, "tokens tokens"]
Positions = Float[Tensor, "positions width"]
PatchEmbeddings = Float[Tensor, "windows grid_h grid_w embed_dim"]
TextEmbeddings = Float[Tensor, "queries embed_dim"]
Logits = Float[Tensor, "windows grid_h grid_w queries"]
Winner = tuple[
    Float[Tensor, "height width"],
    Int[Tensor, "height width"],
    Float[Tensor, "queries height width"],
]
