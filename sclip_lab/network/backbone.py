"""CLIP itself, borrowed from open_clip and read by the names of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip_lab.core.errors import LabError
from sclip_lab.network import tower
from sclip_lab.network.context import State
from sclip_lab.network.position_embedding import DEFAULT_RULE

# CLIP's channel statistics in 0 .. 255 as the field's evaluations write them.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


def cells(side: int, patch: int, padding: str) -> int:
    """Patches along a side of so many pixels: an incomplete last one counts where it is padded."""
    return -(-side // patch) if padding == "corner" else side // patch


@dataclass(eq=False)
class Backbone:
    """A frozen CLIP with a ViT, open_clip's with a class token or SigLIP's without; or a ViT alone.

    Attributes:
        name: for tables.
        model: the open_clip model, or timm's ViT, in evaluation mode.
        tokenize: texts to tokens; None where there is no text tower.
        position_embedding: default rule of `sclip_lab.network.position_embedding`.
        padding: ``floor`` drops pixels beyond the last whole patch, ``corner`` pads with zeros
            at the bottom and right (original MaskCLIP).
        description: what identifies it in a spec besides its weights.
    """

    name: str
    model: Any
    tokenize: Callable[[Sequence[str]], Tensor] | None
    position_embedding: str = DEFAULT_RULE
    padding: str = "floor"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    description: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._statistics: dict[Any, list[Tensor]] = {}
        self.tower = tower.find(self.name, self.model)
        self.blocks = self.tower.blocks

    @property
    def has_class_token(self) -> bool:
        """Whether token 0 of each image is a class token, or all tokens are patches."""
        return self.tower.prefix == 1

    @property
    def device(self) -> torch.device:
        return self.tower.convolution.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrix products of the image tower's last block."""
        return self.blocks[-1].dtype

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def patch_size(self) -> int:
        return self.tower.patch_size

    @property
    def image_size(self) -> int:
        """Side of the square images it was trained on, in pixels."""
        return self.tower.image_size

    @property
    def embed_dim(self) -> int:
        return self.tower.embed_dim

    @cached_property
    def key(self) -> str:
        """sha256 of every weight (names, shapes, values as stored in memory) and the settings
        that change what the weights compute."""
        total = hashlib.sha256(
            json.dumps(
                {
                    "mean": self.mean,
                    "std": self.std,
                    "padding": self.padding,
                    "position_embedding": self.position_embedding,
                    **self.tower.settings,
                    # Quick or exact GELU, all that differs between CLIPs, is in the settings.
                    **({} if self.has_class_token else {"text": _text_settings(self.model)}),
                }
            ).encode()
        )
        return _add_weights(total, self.model.state_dict()).hexdigest()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches along height and width of an image of that many pixels.

        Raises:
            LabError: smaller than one patch.
        """
        patch = self.patch_size
        grid = cells(height, patch, self.padding), cells(width, patch, self.padding)
        if min(grid) < 1:
            raise LabError(f"image of {height} x {width} pixels is smaller than a {patch} px patch")
        return grid

    def normalise(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) RGB in 0 .. 255 -> the network's input, float32."""
        key = images.device, self.mean, self.std
        if key not in self._statistics:  # on a device once
            with torch.inference_mode(False):
                columns = [torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std)]
                self._statistics[key] = [column.to(images.device) for column in columns]
        mean, std = self._statistics[key]
        return (images.float() - mean) / std

    @torch.inference_mode()
    def embed(self, images: Tensor, position_embedding: str | None = None) -> Tensor:
        """Tokens that enter the first block.

        Args:
            images: (batch, 3, height, width), normalised.
            position_embedding: rule of `sclip_lab.network.position_embedding`; None: the
                backbone's.

        Returns:
            (batch, tokens, width), in the precision of the norms: the class token, if there is
            one, and grid_h * grid_w patches.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise LabError(
                f"images of shape {tuple(images.shape)}: (batch, 3, height, width) wanted"
            )
        height, width = images.shape[-2:]
        grid = self.grid(height, width)
        if self.padding == "corner":
            patch = self.patch_size
            images = F.pad(images, (0, grid[1] * patch - width, 0, grid[0] * patch - height))
        patches = self.tower.convolution(
            images.to(self.device, self.tower.convolution.weight.dtype)
        )
        rule = position_embedding or self.position_embedding
        return self.tower.embed(patches.flatten(2).transpose(1, 2), grid, rule)

    def head(self, tokens: Tensor) -> Tensor:
        """What follows the last block, for each token alone: (..., width) -> (..., embed_dim).

        LN_post and the final projection; without a class token the pooling of one patch, see
        `sclip_lab.network.tower.TimmTower`. Lets gradients by.
        """
        return self.tower.head(tokens)

    @torch.inference_mode()
    def project(self, state: State, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`head` of what flows behind the last block.

        Returns:
            patch embeddings (batch, grid_h, grid_w, embed_dim) and class embeddings
            (batch, embed_dim), neither normalised. Beside a dense stream the class embedding is
            the trained stream's, the one that was made to match texts. Without a class token it
            is the pooled image embedding.
        """
        patches, whole = self.tower.embeddings(state)
        return patches.unflatten(1, grid), whole

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Text embeddings, not normalised: (texts, embed_dim) float32.

        With a causal text tower, positions behind the end of text change nothing, so batches are
        sorted by length and cut there.

        Raises:
            LabError: a network without text tower.
        """
        if self.tokenize is None:
            raise LabError(f"backbone {self.name} has no text tower: it cannot read class names")
        tokens = self.tokenize(list(texts))
        ends = tokens.argmax(dim=-1)
        order = torch.argsort(ends, stable=True)
        out = torch.empty(len(tokens), self.embed_dim)
        for chosen in order.split(batch):
            out[chosen] = self._encode_tokens(tokens[chosen], int(ends[chosen].max()) + 1)
        return out

    def _encode_tokens(self, tokens: Tensor, length: int) -> Tensor:
        model = self.model
        mask = getattr(model, "attn_mask", None)
        if mask is None or model.text_pool_type != "argmax":
            return model.encode_text(tokens.to(self.device)).float().cpu()
        tokens = tokens[:, :length].to(self.device)
        x = model.token_embedding(tokens) + model.positional_embedding[:length]
        x = model.transformer(x, attn_mask=mask[:length, :length])
        x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)]
        projection = model.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        return x.float().cpu()

    @property
    def has_text(self) -> bool:
        """Whether it can embed class names."""
        return self.tokenize is not None

    @cached_property
    def text_key(self) -> str:
        """sha256 of the weights of the text tower alone, and of its settings."""
        weights = self.model.state_dict().items()
        text = {name: tensor for name, tensor in weights if not name.startswith("visual.")}
        settings = json.dumps(_text_settings(self.model)).encode()
        return _add_weights(hashlib.sha256(settings), text).hexdigest()


def _text_settings(model: Any) -> dict[str, Any]:
    """What changes the text tower's function besides its weights."""
    text = getattr(model, "text", model)
    blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    if blocks is None:
        return {"tower": type(text).__name__}
    return {
        "activation": repr(blocks[0].mlp.gelu),
        "causal": text.attn_mask is not None,
        "eps": text.ln_final.eps,
        "heads": blocks[0].attn.num_heads,
        "pool": getattr(text, "text_pool_type", getattr(text, "pool_type", None)),
    }


def _add_weights(total: hashlib._Hash, weights: Mapping[str, Tensor]) -> hashlib._Hash:
    for name, tensor in sorted(weights.items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(_bytes(tensor))
    return total


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
