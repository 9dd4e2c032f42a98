"""Any plain ViT of timm as a backbone: a network that never saw text.

Its patch embeddings are the tokens behind the last norm. Readouts that compare them with texts
refuse it; one that learns classes from masks of other photos does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm

from sclip_lab.core.errors import unknown
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.checkpoint import read_checkpoint
from sclip_lab.network.guidance import HUB_NAMES, build_timm, load_timm_weights
from sclip_lab.network.loading import check_device, check_finite
from sclip_lab.network.position_embedding import DEFAULT_RULE
from sclip_lab.network.precision import PRECISIONS, lower_precision


def load_vit(
    name: str,
    pretrained: str | None = None,
    *,
    checkpoint: str | Path | None = None,
    precision: str = "fp32",
    device: str = "auto",
    seed: int = 0,
    position_embedding: str = DEFAULT_RULE,
    padding: str = "floor",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Backbone:
    """A frozen ViT of timm without text tower.

    Args:
        name: timm's, such as ``vit_base_patch16_224``, or that of a torch.hub entry
            (``dino_vitb16``).
        pretrained: timm's tag of its weights (``dino``), fetched by timm; None for random ones.
        checkpoint: weights from a local file instead, ``.safetensors`` or ``.pt``, by timm's names.
        precision, device, seed, position_embedding, padding, mean, std: as in
            `sclip_lab.network.loading.load_backbone`; mean and std are timm's by default.
        options: more arguments of the timm model, such as ``depth`` or ``embed_dim``.

    Raises:
        LabError: unknown name or tag (did you mean), a network that is no plain ViT or has more
            tokens than a class token and patches, or weights that do not fit or are not finite.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    full = HUB_NAMES.get(name, name)
    architecture, _, tag = full.partition(".")
    fetched = checkpoint is None and pretrained is not None
    if fetched and pretrained != tag:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        if pretrained not in tags:
            raise unknown(f"pretrained tag of {name}", str(pretrained), tags)
        full = f"{architecture}.{pretrained}"
    device = check_device(device)
    model, source = build_timm(full, name, fetched, seed, dict(options or {}), "backbone")
    if checkpoint is not None:
        source = str(checkpoint)
        load_timm_weights(model, read_checkpoint(Path(checkpoint)), source, name, "backbone")
    check_finite(model, source)
    model = model.to(device).eval().requires_grad_(False)
    lower_precision(model, precision)
    known = model.pretrained_cfg
    return Backbone(
        name=name,
        model=model,
        tokenize=None,
        position_embedding=position_embedding,
        padding=padding,
        mean=tuple(255 * value for value in known["mean"]) if mean is None else tuple(mean),
        std=tuple(255 * value for value in known["std"]) if std is None else tuple(std),
        description={
            "name": name,
            "pretrained": pretrained if fetched else None,
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
            "seed": seed if not fetched and checkpoint is None else None,
            "precision": precision,
            "device": device.partition(":")[0],
        },
    )
