"""A second frozen image network, whose features guide attention or propagation.

DINO, DINOv2, SAM's encoder or any other ViT that timm builds, by timm's name or by the name that
the authors' torch.hub entry has; weights from timm, from a local file, or random.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.values import LARGEST_SEED, shown, within
from sclip_lab.network.backbone import Backbone, _add_weights
from sclip_lab.network.checkpoint import read_checkpoint
from sclip_lab.network.loading import check_device, check_finite
from sclip_lab.network.scene import Placement

# The names of torch.hub entries and of SAM's own registry -> timm's names, with their tags.
HUB_NAMES = {
    "dino_vits16": "vit_small_patch16_224.dino",
    "dino_vits8": "vit_small_patch8_224.dino",
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dino_vitb8": "vit_base_patch8_224.dino",
    "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_vitl14": "vit_large_patch14_dinov2.lvd142m",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2.lvd142m",
    "sam_vit_b": "samvit_base_patch16.sa1b",
    "sam_vit_l": "samvit_large_patch16.sa1b",
    "sam_vit_h": "samvit_huge_patch16.sa1b",
}
FACETS = ("token", "query", "key", "value")
SCOPES = ("windows", "photo")
# Arguments of timm that name files or hosts.
MOST = {"depth": 1000}  # blocks; other numbers are smaller than 2^16
FROM_ELSEWHERE = ("pretrained", "checkpoint", "cache_dir")
# Weights of other heads and of training, which features do not need.
UNUSED = ("head.", "mask_token", "fc_norm.", "head_dist.")


@dataclass(eq=False)
class Guide:
    """A second network.

    Attributes:
        name: for tables.
        model: a timm model, frozen.
        patch_size: side of a patch in pixels.
        mean, std: channel statistics in 0 .. 255, RGB.
        layer: the block whose output is taken, -1 the last.
        facet: ``token`` the block's output behind the last norm, or ``query``, ``key`` or
            ``value`` of its attention.
        scope: ``windows``: each window is an image of its own; ``photo``: the whole photo is, and
            each window gets its part of those features.
        scale: factor on the sides before the network sees them.
        description: what identifies it besides its weights.
    """

    name: str
    model: Any
    patch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layer: int = -1
    facet: str = "token"
    scope: str = "windows"
    scale: float = 1.0
    description: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """sha256 of every weight, and of what changes the features besides."""
        settings = {
            "class": type(self.model).__name__,
            "heads": getattr(self.model.blocks[0].attn, "num_heads", None),
            **{k: getattr(self, k) for k in ("mean", "std", "layer", "facet", "scope", "scale")},
        }
        total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        return _add_weights(total, self.model.state_dict()).hexdigest()

    def input(self, images: Tensor, backbone: Backbone) -> Tensor:
        """Images with the backbone's statistics as this network wants them: its own statistics,
        sides scaled and brought to whole patches (bilinear)."""

        def column(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, device=images.device).view(-1, 1, 1)

        rgb = images * column(backbone.std) + column(backbone.mean)
        images = (rgb - column(self.mean)) / column(self.std)
        size = [
            max(1, round(side * self.scale / self.patch_size)) * self.patch_size
            for side in images.shape[-2:]
        ]
        if list(images.shape[-2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return images

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) from `input` -> (batch, channels, grid_h, grid_w) float32."""
        images = images.to(next(self.model.parameters()).device)
        caught: list[Tensor] = []
        blocks = self.model.blocks
        index = self.layer % len(blocks)
        handle = None
        if self.facet != "token":
            handle = blocks[index].attn.qkv.register_forward_hook(
                lambda module, given, made: caught.append(made)
            )
        try:
            [found] = self.model.forward_intermediates(
                images, indices=[index], norm=True, output_fmt="NCHW", intermediates_only=True
            )
        finally:
            if handle is not None:
                handle.remove()
        if not caught:
            return found.float()
        which = FACETS.index(self.facet) - 1
        facet = caught[0].chunk(3, dim=-1)[which]
        facet = facet[:, self.model.num_prefix_tokens :].unflatten(1, found.shape[-2:])
        return facet.permute(0, 3, 1, 2).float()

    def of_windows(self, windows: Tensor, backbone: Backbone) -> Tensor:
        """Features of windows, each by itself: (windows, channels, grid_h, grid_w)."""
        return self.features(self.input(windows, backbone))

    def of_photo(
        self,
        photo: Tensor,
        placement: Placement,
        size: tuple[int, int],
        backbone: Backbone,
        whole: Tensor | None = None,
    ) -> Tensor:
        """Features of windows as parts of their photo.

        Args:
            photo: (3, height, width), normalised for the backbone.
            placement: of its windows, or of some of them.
            size: (height, width) of a window.
            whole: `of_windows` of the photo as one window, where that is known.

        Returns:
            (windows, channels, grid_h, grid_w), sampled (bilinear) at as many places as the
            network would have patches there.
        """
        whole = self.of_windows(photo[None], backbone) if whole is None else whole
        grid = [max(1, round(side * self.scale / self.patch_size)) for side in size]
        places = []
        for top, left in placement.corners:
            y = top + size[0] * (torch.arange(grid[0]) + 0.5) / grid[0]
            x = left + size[1] * (torch.arange(grid[1]) + 0.5) / grid[1]
            y, x = 2 * y / photo.shape[-2] - 1, 2 * x / photo.shape[-1] - 1
            columns, rows = torch.meshgrid(x, y, indexing="xy")
            places.append(torch.stack([columns, rows], dim=-1))
        where = torch.stack(places).to(whole)
        return F.grid_sample(
            whole.expand(len(where), -1, -1, -1),
            where,
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )


def load_guidance(
    name: str,
    pretrained: bool = False,
    *,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    layer: int = -1,
    facet: str = "token",
    scope: str = "windows",
    scale: float = 1.0,
    options: Mapping[str, Any] | None = None,
) -> Guide:
    """A frozen second network.

    Args:
        name: a ViT of timm's, with a tag of its weights or without
            (``vit_base_patch16_224.dino``), or a key of ``HUB_NAMES`` (``dino_vitb16``).
        pretrained: let timm fetch its weights, unless there is a checkpoint.
        checkpoint: weights from a local file instead, ``.safetensors`` or ``.pt``, by timm's names,
            which are those of DINO and DINOv2 as well. Neither: random weights from ``seed``.
        seed: of random weights.
        device: ``auto`` (CUDA where there is one), or a torch device.
        layer, facet, scope, scale: see `Guide`.
        options: more arguments of the timm model, such as ``depth`` or ``embed_dim``.

    Raises:
        LabError: unknown name (did you mean), a network that is no ViT, or weights that do not
            fit or are not finite.
    """
    if facet not in FACETS:
        raise unknown("guidance.facet", facet, FACETS)
    if scope not in SCOPES:
        raise unknown("guidance.scope", scope, SCOPES)
    within("guidance.scale", scale, 0, 1e6, above=True)
    pretrained = pretrained and checkpoint is None
    timm_name, more = HUB_NAMES.get(name, name), dict(options or {})
    model, source = build_timm(timm_name, name, pretrained, seed, more, "guidance")
    if checkpoint is not None:
        source = str(checkpoint)
        load_timm_weights(model, read_checkpoint(Path(checkpoint)), source, name, "guidance")
    depth = len(model.blocks)
    if not -depth <= layer < depth:
        raise LabError(f"guidance.layer {layer}: {name} has {depth} blocks")
    # SAM's blocks project windows of their own, and have no tokens before the patches.
    in_a_row = hasattr(model, "num_prefix_tokens") and hasattr(model.blocks[layer].attn, "qkv")
    if facet != "token" and not in_a_row:
        raise LabError(f"guidance.facet {facet}: {name} has its tokens only; set facet=token")
    check_finite(model, source)
    device = check_device(device)
    statistics = model.pretrained_cfg
    return Guide(
        name=name,
        model=model.to(device).eval().requires_grad_(False),
        patch_size=model.patch_embed.patch_size[0],
        mean=tuple(255 * value for value in statistics["mean"]),
        std=tuple(255 * value for value in statistics["std"]),
        layer=layer,
        facet=facet,
        scope=scope,
        scale=scale,
        description={
            "name": name,
            "weights": source,
            "layer": layer,
            "facet": facet,
            "scope": scope,
            "scale": scale,
        },
    )


def build_timm(
    timm_name: str, name: str, pretrained: bool, seed: int, options: dict[str, Any], role: str
) -> tuple[Any, str]:
    """timm's ViT without head, for images of any size, and where its weights are from.

    Args:
        timm_name: with the tag of its weights. name: what the user called it.
        pretrained: let timm fetch its weights. seed: of random ones.
        options: more arguments. role: what it is for, in messages: a key of the configuration.

    Raises:
        LabError: unknown name (did you mean), no ViT, options that cannot be meant or name files,
            or weights that cannot be fetched.
    """
    architecture = timm_name.partition(".")[0]
    if architecture not in timm.list_models():
        raise unknown(role, name, [*HUB_NAMES, *timm.list_models("*vit*")])
    within(f"{role}.seed", seed, 0, LARGEST_SEED)
    for key, value in options.items():
        if isinstance(value, int | float):
            within(f"{role}.options.{key}", value, -1, MOST.get(key, 65_536))
        if key.startswith(FROM_ELSEWHERE):
            raise LabError(
                f"{role}.options.{key} loads what may run code; weights are given as "
                f"{role}.checkpoint=<file>"
            )
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        with _quiet():
            # SAM's encoder takes images of any size by itself, and has no such argument.
            any_size: dict[str, Any] = (
                {} if architecture.startswith("samvit") else {"dynamic_img_size": True}
            )
            model = timm.create_model(
                timm_name, pretrained=pretrained, num_classes=0, **any_size, **options
            )
    except (OSError, ImportError) as error:
        raise LabError(
            f"{role} {name}: timm could not fetch its weights ({error}); on a machine without "
            f"that network give {role}.checkpoint=<local file>"
        ) from error
    # Options that cannot be meant break a network's code in many ways.
    except Exception as error:
        given = f" with {role}.options {shown(options)}" if options else ""
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise LabError(f"{role} {name}: timm cannot build it{given}: {why}") from error
    finally:
        torch.random.set_rng_state(generator)
    patches = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if not hasattr(model, "blocks") or not patches or not hasattr(model, "forward_intermediates"):
        raise LabError(f"{role} {name} is a {type(model).__name__}; a ViT is needed")
    return model, f"timm {timm_name}" if pretrained else f"random, seed {seed}"


def load_timm_weights(
    model: Any, weights: Mapping[str, Tensor], source: str, name: str, role: str
) -> None:
    """Weights by name, of the network alone; a grid of another size gets its position embedding
    resampled by timm.

    Raises:
        LabError: they do not fit.
    """
    weights = {
        key.removeprefix("module.").removeprefix("backbone."): value.float()
        for key, value in weights.items()
    }
    wanted = model.state_dict()
    weights = {k: v for k, v in weights.items() if k in wanted or not k.startswith(UNUSED)}
    position = weights.get("pos_embed")
    if position is not None and position.ndim == 3 and position.shape != wanted["pos_embed"].shape:
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        weights["pos_embed"] = timm.layers.resample_abs_pos_embed(
            position, model.patch_embed.grid_size, num_prefix_tokens=prefix
        )
    missing, extra = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
    shapes = [k for k in wanted if k in weights and weights[k].shape != wanted[k].shape]
    problems = (
        ([f"{len(missing)} weights missing, first {missing[0]}"] if missing else [])
        + ([f"{len(extra)} unexpected, first {extra[0]}"] if extra else [])
        + ([f"{len(shapes)} of another shape, first {shapes[0]}"] if shapes else [])
    )
    if problems:
        raise LabError(f"{source} does not fit {role} {name}: {'; '.join(problems)}")
    model.load_state_dict(weights)


@contextmanager
def _quiet() -> Any:
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)
