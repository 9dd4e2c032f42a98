"""A frozen image network with or without a text tower, behind one interface."""

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

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.network import tower
from sclip_lab.network.block import Block
from sclip_lab.network.context import Grid, State
from sclip_lab.network.position_embedding import DEFAULT_RULE, RULES
from sclip_lab.network.structure import structure
from sclip_lab.network.tokenizer import Tokenizer

# CLIP's channel statistics in 0 .. 255 as the field's evaluations write them.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


def cells(side: int, patch: int, padding: str) -> int:
    """Count the patches along a side in pixels. An incomplete last one counts if it is padded."""
    return -(-side // patch) if padding == "corner" else side // patch


@dataclass(eq=False)
class Backbone:
    """A frozen CLIP with a vision transformer, or a vision transformer alone.

    Attributes:
        name: for tables.
        model: the open_clip model, or timm's, in evaluation mode.
        tokenize: texts to tokens; None if there is no text tower.
        position_embedding: default rule of `sclip_lab.network.position_embedding`.
        padding: ``floor`` drops pixels beyond the last whole patch, ``corner`` pads with zeros
            at the bottom and right (original MaskCLIP).
        mean, std: channel statistics in 0 .. 255, RGB.
        description: what identifies it in a spec besides its weights.
        tower: the image tower.
        blocks: in order; see `blocks_on`.
        depth: number of blocks.
        has_class_token: whether token 0 of each image is a class token.
        patch_size: side of a patch in pixels.
        image_size: side of the square images it was trained on, in pixels.
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
        if self.position_embedding not in RULES:
            raise unknown(f"position_embedding of {self.name}", self.position_embedding, RULES)
        if not (min(self.std) >= 1 and max(*self.mean, *self.std) <= 255) or 0 < max(self.mean) < 1:
            raise LabError(
                f"backbone {self.name}: mean {self.mean} and std {self.std} are not those of "
                "pixels in 0 .. 255; those of pixels in 0 .. 1 times 255 are"
            )
        self._statistics: dict[Any, list[Tensor]] = {}
        self.tower = tower.find(self.name, self.model)
        self.blocks, self.depth = self.tower.blocks, len(self.tower.blocks)
        self.has_class_token = self.tower.has_class_token
        self.patch_size, self.image_size = self.tower.patch_size, self.tower.image_size

    def blocks_on(self, grid: Grid) -> Sequence[Block]:
        """Return the blocks for a grid of patches. They are ``blocks``, with the rotary or relative
        position embedding for that grid in networks that have one."""
        return self.tower.blocks_on(grid)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Backbone:
        """Move the network to a device; returns the backbone itself."""
        self.model.to(device)
        self.__dict__.pop("key", None)
        return self

    def __repr__(self) -> str:
        weights = sum(weight.numel() for weight in self.model.parameters())
        return (
            f"Backbone({self.name}: {self.depth} blocks, patch {self.patch_size}, "
            f"{weights / 1e6:.1f} M weights, {'with' if self.has_text else 'no'} text, "
            f"{self.dtype}, {self.device})".replace("torch.", "")
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the matrix products in the image tower's last block."""
        return self.blocks[-1].dtype

    @property
    def embed_dim(self) -> int:
        return self.tower.embed_dim

    @property
    def activation(self) -> str:
        """Class of the activation in the image tower's MLPs, such as ``QuickGELU``."""
        return type(self.blocks[-1].activation).__name__

    @cached_property
    def key(self) -> str:
        """Return the sha256 of every weight (names, shapes, values as stored in memory) and of
        everything else that changes what the network computes, see
        `sclip_lab.network.structure`."""
        settings = {
            "mean": self.mean,
            "std": self.std,
            "padding": self.padding,
            "position_embedding": self.position_embedding,
            "structure": structure(self.model),
            **self._tokens,
        }
        return digest(json.dumps(settings), self.model.state_dict())

    @property
    def _tokens(self) -> dict[str, str]:
        """What tells the caller's own tokenizer from others in keys; empty for open_clip's."""
        tokens = getattr(self.tokenize, "key", None)
        return {} if tokens is None else {"tokens": tokens}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the number of patches along height and width of an image.

        Raises:
            LabError: the image is smaller than one patch.
        """
        patch = self.patch_size
        grid = cells(height, patch, self.padding), cells(width, patch, self.padding)
        if min(grid) < 1:
            raise LabError(f"image of {height} x {width} pixels is smaller than a {patch} px patch")
        return grid

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise (batch, 3, height, width) RGB in 0 .. 255 to the network's input, float32."""
        mean, std = self._columns(images.device)
        return (images.float() - mean) / std

    def pixels(self, images: Tensor) -> Tensor:
        """Return the RGB in 0 .. 255 of normalised images, (..., 3, height, width)."""
        mean, std = self._columns(images.device)
        return images * std + mean

    def _columns(self, device: torch.device) -> list[Tensor]:
        key = device, self.mean, self.std
        if key not in self._statistics:  # a GPU waits for each copy, so they are copied once
            with torch.inference_mode(False):
                self._statistics[key] = [
                    torch.tensor(values, device=device).view(-1, 1, 1)
                    for values in (self.mean, self.std)
                ]
        return self._statistics[key]

    @torch.inference_mode()
    def embed(self, images: Tensor, position_embedding: str | None = None) -> Tensor:
        """Compute the tokens that enter the first block: class and register tokens, if there are
        any, and grid_h * grid_w patches.

        Args:
            images: (batch, 3, height, width), normalised.
            position_embedding: rule of `sclip_lab.network.position_embedding`; None: the
                backbone's.

        Returns:
            (batch, tokens, width), in the precision of the norms.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise LabError(
                f"images of shape {tuple(images.shape)}; they must be (batch, 3, height, width)"
            )
        height, width = images.shape[-2:]
        grid, patch = self.grid(height, width), self.patch_size
        if self.padding == "corner":
            images = F.pad(images, (0, grid[1] * patch - width, 0, grid[0] * patch - height))
        elif (height, width) != (grid[0] * patch, grid[1] * patch):
            images = images[..., : grid[0] * patch, : grid[1] * patch]
        patches = self.tower.patches(images.to(self.device))
        return self.tower.embed(patches, grid, position_embedding or self.position_embedding)

    def head(self, tokens: Tensor) -> Tensor:
        """Apply last norm and projection to each token alone: (..., width) -> (..., embed_dim).
        With attention pooling this is the pooling of that token alone. Gradients flow through it.
        """
        return self.tower.head(tokens)

    @torch.inference_mode()
    def project(self, state: State, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute patch and image embeddings from the state behind the last block.

        Returns:
            patch embeddings (batch, grid_h, grid_w, embed_dim) and image embeddings
            (batch, embed_dim), neither normalised. The image embedding is what the network itself
            computes: its class token, or what it pools. It comes from the trained stream even if
            there is a dense one, because the trained stream was made to match texts.
        """
        patches, whole = self.tower.embeddings(state, grid)
        return patches.unflatten(1, grid), whole

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch: int = 256, truncate: bool = False) -> Tensor:
        """Compute text embeddings, not normalised: (texts, embed_dim) float32.

        Args:
            texts: class names in prompts, or other texts.
            batch: how many texts the tower reads at a time.
            truncate: cut texts that are longer than the tower reads, instead of refusing them.

        Raises:
            LabError: a network without text tower, a text that is too long, or an embedding that is
                not finite.
        """
        if self.tokenize is None:
            raise LabError(f"backbone {self.name} has no text tower: it cannot read class names")
        if texts and not truncate and isinstance(self.tokenize, Tokenizer):
            self.tokenize.check_lengths(texts, self.name)
        tokens = self.tokenize(list(texts))
        tower_of_texts = getattr(self.model, "text", self.model)
        names = "vocab_size", "context_length"  # transformers' towers have 0
        ids, context = (getattr(tower_of_texts, name, 0) or 2**31 for name in names)
        if len(tokens) and (tokens.max() >= ids or tokens.shape[1] > context):
            raise LabError(
                f"backbone {self.name} reads {context} tokens with ids below {ids}; its tokenizer "
                f"gave {tokens.shape[1]} with ids up to {tokens.max()}"
            )
        # In a causal text tower, positions behind the end of text change nothing, so batches are
        # sorted by length and cut there.
        ends = tokens.argmax(dim=-1)
        order = torch.argsort(ends, stable=True)
        out = torch.empty(len(tokens), self.embed_dim)
        for rows in order.split(batch):
            out[rows] = self._encode_tokens(tokens[rows], int(ends[rows].max()) + 1)
        if not bool(torch.isfinite(out).all()):
            text = texts[int((~torch.isfinite(out)).any(dim=1).nonzero()[0])]
            raise LabError(
                f"backbone {self.name}: the embedding of text {text[:60]!r} is not finite"
            )
        return out

    def _encode_tokens(self, tokens: Tensor, length: int) -> Tensor:
        model = self.model
        mask = getattr(model, "attn_mask", None)
        if mask is None or model.text_pool_type != "argmax":
            return model.encode_text(tokens.to(self.device), normalize=False).float().cpu()
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
        """Return the sha256 of all weights and structure outside the image tower: those of the text
        tower and of the logits' scale."""
        weights = self.model.state_dict().items()
        text = {name: tensor for name, tensor in weights if not name.startswith("visual.")}
        parts = [entry for entry in structure(self.model) if not entry[0].startswith("visual")]
        return digest(json.dumps([*parts, *self._tokens.items()]), text)


def digest(settings: str, weights: Mapping[str, Tensor]) -> str:
    """sha256 of a text, and of names, shapes, types and values of weights."""
    total = hashlib.sha256(settings.encode())
    for name, tensor in sorted(weights.items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
