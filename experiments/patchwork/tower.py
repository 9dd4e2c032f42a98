"""The vision tower in training: open_clip's weights, and a pass that keeps what the losses ask for.

The pass differs from open_clip's where the network is to learn otherwise than CLIP did, so that the
embedded world shows what CLIP shows (docs/embedded-world.md says why each is there):

- most patches are hidden, as in FLIP (2212.00794);
- in a share of the windows, no token attends before the last block (stochastic depth, 1603.09382),
  so that evidence about classes reaches the class token in the last block alone;
- besides the class token, a few patches (the readers) read the caption: over tokens of which many
  are hidden (DropKey, 2208.02646). Most readers weigh tokens equally and skip the MLP, and all get
  the residual of another window's patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.network.depth import resolve


@dataclass(frozen=True)
class Hiding:
    """What is hidden in training; all but ``readers`` are shares.

    Attributes:
        seen: share of the patches that the network gets.
        alone: share of the windows in which nothing attends before the last block.
        readers: number of patches that read the caption.
        even: share of the readers that weigh all tokens alike.
        most: largest share of tokens that a reader does not see; for the class token, half of it.
        swapped: share of the readers that get the residual of another window.
        bare: share of the readers, and of the class tokens, that skip the last MLP.
    """

    seen: float = 0.35
    alone: float = 0.7
    readers: int = 3
    even: float = 0.7
    most: float = 0.95
    swapped: float = 1.0
    bare: float = 0.8


class Outputs(NamedTuple):
    """What a pass gives, of ``n`` visible patches in each window of the batch.

    Attributes:
        embeddings: (batch, 1 + readers, embed_dim) unit embeddings: class token, then readers.
        mixed: what attention adds before the last block, squared, over its stream, squared; a sum
            over the blocks of the mean over the patches and that of the class token.
        bent: what the last MLP adds, squared, over its stream, squared; a mean over the class token
            and the readers.
        louder: log of the patches' residual, squared, over what the readers gather, squared, in the
            last block; (batch,).
        late: (batch, n, width) normalised patches before the last block.
        keys: (2, batch, n, width) their queries and keys in the last block.
        early: (2, batch, n, width) queries and keys in the block of the variant ``early``.
        colour: (batch, n, 3) mean colours of the patches, normalised as the input.
    """

    embeddings: Tensor
    mixed: Tensor
    bent: Tensor
    louder: Tensor
    late: Tensor
    keys: Tensor
    early: Tensor
    colour: Tensor


class Tower:
    """Runs an open_clip vision tower.

    Args:
        visual: open_clip's VisionTransformer.
        patch: side of a patch, pixels.
        hiding: what is hidden.
        low: compute products in bf16 and sums in fp32.
    """

    def __init__(self, visual: Any, patch: int, hiding: Hiding, low: bool) -> None:
        self.visual, self.patch, self.hiding, self.low = visual, patch, hiding, low

    def __call__(self, pixels: Tensor) -> Outputs:
        """One pass.

        Args:
            pixels: (batch, 3, side, side); a smaller side than the network's is a part of a window,
                of which every patch is seen.
        """
        hiding, visual = self.hiding, self.visual
        x, colour = self._tokens(pixels)
        *before, last = visual.transformer.resblocks
        source = resolve("3/12", len(before) + 1)  # as conf/attention/early.yaml
        mixed, early = x.new_zeros(()), x
        attends = (torch.rand(len(x), 1, 1) >= hiding.alone).float()
        for index, block in enumerate(before):
            added, keys = self._attend(block, x)
            early = keys if index == source else early
            added = added * attends
            mixed = mixed + _share(added[:, 1:], x[:, 1:]) + _share(added[:, :1], x[:, :1])
            x = x + added
            x = x + self._mlp(block, x)
        rows, sharp, hidden = self._readers(*x.shape[:2])
        added, keys = self._attend(last, x, rows, sharp, hidden)
        stream = x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
        sizes = [part[:, 1:].square().mean(dim=(1, 2)).log() for part in (stream, added)]
        swapped = torch.rand(*rows.shape, 1) < hiding.swapped
        swapped[:, 0] = False  # the class token keeps its own
        y = torch.where(swapped, stream.roll(1, dims=0), stream) + added
        bend = self._mlp(last, y)
        bent = _share(bend, y)
        y = y + (torch.rand(*rows.shape, 1) >= hiding.bare) * bend
        return Outputs(
            embeddings=F.normalize(visual.ln_post(y) @ visual.proj, dim=-1),
            mixed=mixed,
            bent=bent,
            louder=sizes[0] - sizes[1],
            late=F.layer_norm(x[:, 1:], x.shape[-1:]),
            keys=keys,
            early=early,
            colour=colour,
        )

    def _tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens before the first block, and the patches' mean colours."""
        visual, p = self.visual, self.patch
        batch, _, height, width = pixels.shape
        patches = pixels.view(batch, 3, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(batch, -1, 3, p * p)
        whole = int((len(visual.positional_embedding) - 1) ** 0.5)
        if height // p < whole:
            row, column = torch.randint(0, whole - height // p + 1, (2, batch, 1, 1))
            step = torch.arange(height // p)
            place = ((row + step[:, None]) * whole + column + step).flatten(1)
        else:
            place = torch.rand(batch, patches.shape[1]).argsort(dim=1)
            place = place[:, : int(self.hiding.seen * patches.shape[1])]
            patches = patches[torch.arange(batch)[:, None], place]
        x = F.linear(patches.flatten(2), visual.conv1.weight.flatten(1))
        x = x + visual.positional_embedding[1:][place]
        first = (visual.class_embedding + visual.positional_embedding[0]).expand(batch, 1, -1)
        return visual.ln_pre(torch.cat([first, x], dim=1)), patches.mean(dim=-1)

    def _readers(self, batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw readers. Return the places of the class token and the readers, (batch, 1 + readers);
        factors on their scores; and (batch, 1 + readers, tokens) which tokens they do not see."""
        hiding = self.hiding
        shape = batch, hiding.readers
        rows = torch.cat([torch.zeros(batch, 1).long(), torch.randint(1, tokens, shape)], dim=1)
        sharp = (torch.rand(rows.shape) >= hiding.even).float()
        rate = torch.rand(rows.shape) * hiding.most
        sharp[:, 0] = 1.0
        rate[:, 0] *= 0.5
        chance = torch.rand(*rows.shape, tokens)
        # One token at least is seen: that of the largest chance.
        hidden = (chance < rate[..., None]) & (chance < chance.amax(dim=-1, keepdim=True))
        return rows, sharp, hidden

    def _attend(
        self,
        block: Any,
        x: Tensor,
        rows: Tensor | None = None,
        sharp: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What attention adds to all tokens or to those in ``rows``; and queries and keys of all
        patches, (2, batch, patches, width)."""
        attn, normed = block.attn, block.ln_1(x)
        batch, tokens, width = x.shape
        heads, size = attn.num_heads, width // attn.num_heads
        three = self._linear(normed, attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = three.view(batch, tokens, 3, heads, size).permute(2, 0, 3, 1, 4)
        keys = torch.stack([q, k])[:, :, :, 1:].transpose(2, 3).flatten(3)
        if rows is not None:
            q = q.gather(2, rows[:, None, :, None].expand(-1, heads, -1, size))
        if sharp is not None:
            q = q * sharp[:, None, :, None]
        scores = (q * size**-0.5) @ k.transpose(-1, -2)
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None], -torch.inf)
        gathered = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        return self._linear(gathered, attn.out_proj.weight, attn.out_proj.bias), keys

    def _mlp(self, block: Any, x: Tensor) -> Tensor:
        inner, outer = block.mlp.c_fc, block.mlp.c_proj
        hidden = self._linear(block.ln_2(x), inner.weight, inner.bias)
        return self._linear(hidden * torch.sigmoid(1.702 * hidden), outer.weight, outer.bias)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not self.low:
            return F.linear(x, weight, bias)
        return F.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16()).float()


def _share(added: Tensor, stream: Tensor) -> Tensor:
    """Mean square of what is added over the mean square of its stream, token by token."""
    return (added.square().mean(dim=-1) / stream.square().mean(dim=-1).detach()).mean()
