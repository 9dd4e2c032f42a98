"""What a rewritten block may look at: its input, the blocks before it, the patch grid.

Shapes: ``batch`` images or windows, ``tokens`` = `Block.prefix` + grid_h * grid_w:
one class token, in networks that have one, and the patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.network.block import PROJECTIONS, Block, softmax_scores
from sclip_lab.network.depth import Layer, resolve
from sclip_lab.network.scene import ALONE, Grid, Guidance, Placement, Scene, alone
from sclip_lab.network.text import Text
from sclip_lab.network.truth import Labels


class BlockInput:
    """The tokens that enter one block, and everything derived from them, computed once.

    All variants that reach a block with the same tokens share one of these, so queries, keys,
    values and attention maps are computed once however many variants use them. The values do not
    depend on who asks first: nothing here is fused across askers.

    Args:
        block: the block.
        tokens: (batch, tokens, width), or a function that makes them when they are asked for.
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

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """``compute()`` the first time ``key`` is asked for, the same object afterwards."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    @property
    def normed(self) -> Tensor:
        """LN1 of the tokens: (batch, tokens, width)."""
        return self.once("normed", lambda: self.block.norm(self.tokens))

    def projected(self, name: str) -> Tensor:
        """(batch, heads, tokens, head_dim): ``query``, ``key``, ``value``, or ``identity``,
        LN1's output cut into heads."""
        if name == "identity":
            return self.block.heads(self.normed)
        if name not in PROJECTIONS:
            raise unknown("projection", name, (*PROJECTIONS, "identity"))
        return self.once(name, lambda: self.block.project(self.normed, name))

    def attention(self, a: str = "query", b: str = "key") -> Tensor:
        """softmax(a b^T / sqrt(head_dim)): (batch, heads, tokens, tokens)."""
        return self.once(
            ("attention", a, b),
            lambda: softmax_scores(scores(self.projected(a), self.projected(b), self.block.scale)),
        )


def scores(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Attention scores scale * a b^T of (batch, heads, tokens, dim) operands.

    At least fp32: eight bits of a score of 16 would move its weight by several per cent.
    """
    if a.dtype.itemsize == 2:
        a, b = a.float(), b.float()
    return (a * scale) @ b.transpose(-2, -1)


@dataclass
class State:
    """What flows from block to block.

    Attributes:
        tokens: (batch, tokens, width), the stream that the network was trained with.
        dense: the same shape; an optional second stream that a method reads out instead.
        attention: (batch, heads, tokens or patches, same) weights that multiplied the values in
            the last rewritten block, for diagnostics; None where a method has no single map.
        grid: (grid_h, grid_w) of the patches, where it is not that of the input.
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
    """What an earlier pass over the same image says about its scores.

    Attributes:
        matrix: (batch, 1, tokens, tokens), 1 where two tokens belong together; its product with
            ``share`` is rounded to its own precision.
        share: of the matrix in the scores, 0 .. 1.
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
    """A block's input as one variant sees it.

    Attributes:
        input: the block's input, shared with other variants.
        history: the inputs of all blocks before it, in order.
        grid: (grid_h, grid_w) of the patch tokens.
        class_token: whether patches may attend to the class token, where there is one.
        feedback: changes scores before anything is added to them, or None.
        prior: a term on the scores, or None: called with the context, gives anything that
            broadcasts to (batch, heads, tokens, tokens).
        scene: the photos that the windows are of, and a second network's features of them.
        texts: the protocol's, or None where nobody gave any.
        finish: attention weights to the tokens behind this block, with the variant's own residual
            and MLP; None for a block edit.
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
        """Whether patches are kept from a class token that exists."""
        return not self.class_token and self.block.prefix > 0

    @property
    def photos(self) -> tuple[Placement, ...]:
        """Which windows of the batch are of one photo, and where they lie in it."""
        return self.scene.photos or alone(len(self.tokens), self.grid)

    @property
    def guidance(self) -> Guidance:
        """What a second network sees in the windows; for functions marked by
        `sclip_lab.core.call.uses`."""
        return self.scene.need_guidance("this attention")

    @property
    def text(self) -> Text:
        """The protocol's texts; for functions marked by `sclip_lab.core.call.uses`.

        Raises:
            LabError: nobody gave any.
        """
        if self.texts is None:
            raise LabError("this attention reads texts: give class names, or text=...")
        return self.texts

    @property
    def labels(self) -> Labels:
        """Ground truth on the window's patch grid; for functions marked by
        `sclip_lab.core.call.uses`. What reads it is an oracle.

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
        """What follows the last block, for each token alone: (..., width) -> (..., embed_dim)."""
        return self.block.tower.head(tokens)

    def finished(self, weights: Tensor) -> Tensor:
        """Tokens behind this block, if it ended with these weights: (batch, tokens, width).

        Raises:
            LabError: in a block edit, which has its own end.
        """
        if self.finish is None:
            raise LabError("only a weights function's block can be finished with other weights")
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
        """a b^T / (temperature * sqrt(head_dim)) of (batch, heads, tokens, dim) operands."""
        return scores(a, b, self.block.scale / temperature)

    def softmax(self, raw: Tensor) -> Tensor:
        """Scores to weights, with the variant's prior and its choice about the class token.

        Args:
            raw: (batch, heads, tokens, tokens).

        Returns:
            the same shape; rows sum to 1.
        """
        if self.feedback is not None:
            raw = self.feedback(raw)
        return softmax_scores(raw, self._bias(raw))

    def attention(self, a: str = "query", b: str = "key", temperature: float = 1.0) -> Tensor:
        """softmax(a b^T / (temperature * sqrt(head_dim)) + prior) of two named projections."""
        changed = self.prior is not None or self.feedback is not None or self.closed
        if not changed and temperature == 1.0:
            return self.input.attention(a, b)
        raw = self.scores(self.input.projected(a), self.input.projected(b), temperature)
        return self.softmax(raw)

    def after(self, layer: Layer) -> Tensor:
        """The token stream behind an earlier block (0-based index, negative or fraction)."""
        index = self._before(layer, last=self.block.index - 1)
        return (*self.history, self.input)[index + 1].tokens

    def earlier(self, layer: Layer) -> BlockInput:
        """The input of an earlier block, or of this one, for its attention or its tokens."""
        index = self._before(layer, last=self.block.index)
        return (*self.history, self.input)[index]

    def at(self, layer: Layer) -> Context:
        """An earlier block, seen with this variant's prior and choice about the class token."""
        index = self._before(layer, last=self.block.index)
        return replace(self, input=(*self.history, self.input)[index], history=self.history[:index])

    def _before(self, layer: Layer, last: int) -> int:
        index = resolve(layer, self.block.depth)
        if index > last:
            raise LabError(
                f"layer {layer} is block {index}, but block {self.block.index} is the one being "
                f"rewritten and can only read up to block {last}"
            )
        return index

    def _bias(self, raw: Tensor) -> Tensor | None:
        bias = None if self.prior is None else self.prior(self).to(raw)
        if self.closed:
            # The class token's own row keeps it: an empty row has no softmax.
            closed = raw.new_zeros(raw.shape[-2:])
            closed[1:, 0] = -torch.inf
            bias = closed if bias is None else bias + closed
        return bias
