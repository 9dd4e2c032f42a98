"""What a rewritten block can read: its input, the inputs of earlier blocks, the patch grid.

Shapes: ``batch`` images or windows, ``tokens`` = `Block.prefix` + grid_h * grid_w: the class token
and register tokens, in networks that have them, and the patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.network.block import BEFORE_ROTATION, PROJECTIONS, Block, softmax_scores
from sclip_lab.network.depth import Layer, resolve
from sclip_lab.network.scene import ALONE, Guidance, Placement, Scene, alone
from sclip_lab.network.scene import Grid as Grid
from sclip_lab.network.text import Text
from sclip_lab.network.truth import PatchLabels

# Largest attention map of a window, in bytes, that is kept for other variants. If a large photo is
# one window, the maps of all blocks would take gigabytes, so each use computes its map anew.
LARGEST_KEPT = 32 << 20


class BlockInput:
    """The tokens that enter one block, (batch, tokens, width) or a function that computes them on
    first use, and a cache of what is computed from them.

    Variants that reach a block with the same tokens share one `BlockInput`. No operation is fused
    across variants, so the values do not depend on which variant comes first.
    """

    def __init__(self, block: Block, tokens: Tensor | Callable[[], Tensor]) -> None:
        self.block = block
        self._tokens = tokens
        self._memo: dict[Any, Any] = {}

    @property
    def tokens(self) -> Tensor:
        """(batch, tokens, width)."""
        if callable(self._tokens):
            self._tokens = self._tokens()
        return self._tokens

    def fresh(self) -> BlockInput:
        """The same tokens without what has been computed from them."""
        return BlockInput(self.block, self._tokens)

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Call ``compute`` on the first use of ``key``; return the same object afterwards."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def as_trained(self) -> Tensor:
        """The tokens behind the block as trained: (batch, tokens, width)."""
        # None: without an edit of the MLP.
        return self.once(("plain", None), lambda: self.block.plain(self.tokens))

    @property
    def normed(self) -> Tensor:
        """LN1 of the tokens: (batch, tokens, width)."""
        return self.once("normed", lambda: self.block.norm(self.tokens))

    def projected(self, name: str) -> Tensor:
        """Return one projection, (batch, heads, tokens, head_dim). ``query``, ``key`` and ``value``
        are as the network's own softmax uses them. ``query_before_rotation`` and
        ``key_before_rotation`` are without the rotary embedding, where there is one. ``identity``
        is LN1's output cut into heads."""
        if name == "identity":
            per_head = self.block.heads(self.normed)
            if per_head.shape[1] != self.block.num_heads:
                raise LabError(
                    f"{self.block.network}: identity needs heads that are together as wide as the "
                    "tokens"
                )
            return per_head
        if name not in (*PROJECTIONS, *BEFORE_ROTATION):
            raise unknown("projection", name, (*PROJECTIONS, *BEFORE_ROTATION, "identity"))
        return self.once(name, lambda: self.block.project(self.normed, name))

    def attention(self, a: str = "query", b: str = "key") -> Tensor:
        """softmax(a b^T / sqrt(head_dim)) of two projections: (batch, heads, tokens, tokens). The
        scores of query and key get the network's bias, if it has one."""

        def compute() -> Tensor:
            raw = scores(self.projected(a), self.projected(b), self.block.scale)
            return softmax_scores(raw, self.bias(a, b))

        size = 4 * self.block.num_heads * self.tokens.shape[1] ** 2
        return self.once(("attention", a, b), compute) if size <= LARGEST_KEPT else compute()

    def bias(self, a: str, b: str) -> Tensor | None:
        """The network's own term of the scores of query and key, see `Block.bias_of`; None for
        other projections."""
        trained = (a, b) == ("query", "key")
        return self.block.bias_of(self.projected("query")) if trained else None


def scores(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Compute attention scores scale * a b^T of (batch, heads, tokens, dim) operands.

    Computed in fp32 at least: a score of 16 rounded to bf16 would change its attention weight by
    several per cent.
    """
    if a.dtype.itemsize == 2:
        a, b = a.float(), b.float()
    return (a * scale) @ b.transpose(-2, -1)


@dataclass
class State:
    """What flows from block to block.

    Attributes:
        tokens: (batch, tokens, width), the stream of the network as trained.
        dense: the same shape; an optional second stream that the readout uses instead.
        attention: (batch, heads, tokens, tokens), or patches in place of tokens: the weights that
            multiplied the values in the last rewritten block. None if the method has no such map.
        grid: (grid_h, grid_w) of the patches; None if it is the grid of the input.
    """

    tokens: Tensor
    dense: Tensor | None = None
    attention: Tensor | None = None
    grid: Grid | None = None

    @property
    def readout(self) -> Tensor:
        """The stream that becomes patch embeddings: (batch, tokens, width)."""
        return self.tokens if self.dense is None else self.dense


@dataclass(frozen=True)
class Feedback:
    """A change of attention scores that comes from an earlier pass over the same image.

    Attributes:
        matrix: (batch, 1, tokens, tokens), 1 where two tokens belong together. ``share *
            matrix`` is rounded to the matrix's precision.
        share: weight of the matrix in the scores, 0 .. 1.
        gain: factor on the result.
    """

    matrix: Tensor
    share: float
    gain: float

    def __call__(self, raw: Tensor) -> Tensor:
        """gain * ((1 - share) * raw + share * matrix)."""
        return self.gain * ((1 - self.share) * raw + (self.share * self.matrix).to(raw))


@dataclass(frozen=True)
class Context:
    """The input of a block as one variant sees it.

    Attributes:
        input: the block's input, which variants share.
        history: the inputs of the earlier blocks, in order.
        grid: (grid_h, grid_w) of the patch tokens.
        class_token: whether patches may attend to the class token, if there is one.
        feedback: changes the scores before the prior is added, or None.
        prior: a function of the context that returns a term of the scores, which broadcasts to
            (batch, heads, tokens, tokens); or None.
        scene: the photos that the windows come from, and a second network's features of them.
        texts: texts of the protocol, or None.
        finish: attention weights -> tokens behind this block, with the residual and MLP that the
            variant chose; None for a block edit.
    """

    input: BlockInput
    history: tuple[BlockInput, ...]
    grid: Grid
    class_token: bool = True
    prior: Callable[[Context], Tensor] | None = None
    feedback: Feedback | None = None
    scene: Scene = ALONE
    texts: Text | None = None
    finish: Callable[[Tensor], Tensor] | None = None

    @property
    def block(self) -> Block:
        return self.input.block

    @property
    def tokens(self) -> Tensor:
        return self.input.tokens

    @property
    def closed(self) -> bool:
        """Tell whether there is a class token that patches must not attend to."""
        return not self.class_token and self.block.has_class_token

    @property
    def photos(self) -> tuple[Placement, ...]:
        """For each photo, which windows of the batch are cut from it, and where."""
        return self.scene.photos or alone(len(self.tokens), self.grid)

    @property
    def guidance(self) -> Guidance:
        """Features of a second network in the windows; for functions marked by
        `sclip_lab.core.functions.uses`."""
        return self.scene.need_guidance("this attention")

    @property
    def text(self) -> Text:
        """Texts of the protocol; for functions marked by `sclip_lab.core.functions.uses`.

        Raises:
            LabError: there are none.
        """
        if self.texts is None:
            raise LabError("this attention reads texts: give class names, or text=...")
        return self.texts

    @property
    def labels(self) -> PatchLabels:
        """Ground truth on the window's patch grid; for functions marked by
        `sclip_lab.core.functions.uses`. What reads it is an oracle.

        Raises:
            LabError: nobody knows the truth here, or the patches lie on another grid.
        """
        labels = self.scene.labels
        if labels is None:
            raise LabError(
                "this attention reads ground truth; evaluate it on a data set with masks, or give "
                "labels=..."
            )
        if labels.grid != tuple(self.grid):
            raise LabError(
                f"ground truth is known on a {labels.grid[0]} x {labels.grid[1]} grid of patches; "
                f"this block has {self.grid[0]} x {self.grid[1]}"
            )
        return labels

    def head(self, tokens: Tensor) -> Tensor:
        """Layers behind the last block, on each token alone: (..., width) -> (..., embed_dim)."""
        return self.block.tower.head(tokens)

    def finished(self, weights: Tensor) -> Tensor:
        """Tokens behind this block when it uses these weights: (batch, tokens, width).

        Raises:
            LabError: the context is that of a block edit, which computes its own output.
        """
        if self.finish is None:
            raise LabError("finished() works in a weights function only, not in a block edit")
        return self.finish(weights)

    @property
    def query(self) -> Tensor:
        return self.input.projected("query")

    @property
    def key(self) -> Tensor:
        return self.input.projected("key")

    @property
    def value(self) -> Tensor:
        return self.input.projected("value")

    def scores(self, a: Tensor, b: Tensor, temperature: float = 1.0) -> Tensor:
        """Return a b^T / (temperature * sqrt(head_dim)) of (batch, heads, tokens, dim) operands."""
        return scores(a, b, self.block.scale / temperature)

    def softmax(self, raw: Tensor) -> Tensor:
        """Take the softmax of scores, (batch, heads, tokens, tokens), changed by feedback, the
        variant's prior and its choice about the class token. Rows sum to 1."""
        if self.feedback is not None:
            raw = self.feedback(raw)
        return softmax_scores(raw, self._bias(raw))

    def attention(self, a: str = "query", b: str = "key", temperature: float = 1.0) -> Tensor:
        """softmax(a b^T / (temperature * sqrt(head_dim)) + prior) of two named projections."""
        changed = self.prior is not None or self.feedback is not None or self.closed
        if not changed and temperature == 1.0:
            return self.input.attention(a, b)
        raw = self.scores(self.input.projected(a), self.input.projected(b), temperature)
        bias = self.input.bias(a, b)
        return self.softmax(raw if bias is None else raw + bias)

    def after(self, layer: Layer) -> Tensor:
        """Tokens behind an earlier block (0-based index, negative index or fraction of depth)."""
        index = self._before(layer, last=self.block.index - 1)
        return (*self.history, self.input)[index + 1].tokens

    def earlier(self, layer: Layer) -> BlockInput:
        """The input of an earlier block, or of this block."""
        index = self._before(layer, last=self.block.index)
        return (*self.history, self.input)[index]

    def at(self, layer: Layer) -> Context:
        """The context of an earlier block, with this variant's prior and class-token choice."""
        index = self._before(layer, last=self.block.index)
        return replace(self, input=(*self.history, self.input)[index], history=self.history[:index])

    def _before(self, layer: Layer, last: int) -> int:
        index = resolve(layer, self.block.depth)
        if index > last:
            readable = f"can read blocks 0 to {last}" if last >= 0 else "has no block before it"
            raise LabError(
                f"layer {layer} is block {index}; block {self.block.index}, which is rewritten, "
                f"{readable}"
            )
        return index

    def _bias(self, raw: Tensor) -> Tensor | None:
        bias = None if self.prior is None else self.prior(self).to(raw)
        if self.closed:
            # Rows before the patches keep the class token: an empty row has no softmax.
            closed = raw.new_zeros(raw.shape[-2:])
            closed[self.block.prefix :, 0] = -torch.inf
            bias = closed if bias is None else bias + closed
        return bias
