"""A vision transformer of timm as a backbone: a network that never saw text.

Its patch embeddings are the tokens behind the last norm. Readouts that compare them with texts
refuse it; ``prototypes``, which learns classes from masks of other photos, does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.values import check, shown, within
from sclip_lab.network.architecture import read_architecture
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.checkpoint import folder_of, read_checkpoint
from sclip_lab.network.fit import check_config, load_timm_weights
from sclip_lab.network.loading import (
    check_device,
    check_finite,
    check_options,
    prepared,
    quiet,
    seeded,
)
from sclip_lab.network.position_embedding import DEFAULT_RULE
from sclip_lab.network.precision import Precision
from sclip_lab.network.pretrained_tags import of_note, warn_of_statistics

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
MOST = {"depth": 1000}  # blocks; other numbers are smaller than 2^16
# Arguments of timm that name files or hosts.
FROM_ELSEWHERE = ("pretrained", "checkpoint", "cache_dir")


def load_vit(
    name: str,
    pretrained: str | None = None,
    *,
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    precision: Precision = "fp32",
    device: str = "auto",
    seed: int = 0,
    position_embedding: str = DEFAULT_RULE,
    padding: Literal["floor", "corner"] = "floor",
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    options: Mapping[str, Any] | None = None,
    role: str = "backbone",
) -> Backbone:
    """Load a frozen ViT of timm, without text tower.

    Args:
        name: timm's, such as ``vit_base_patch16_224``, or that of a torch.hub entry
            (``dino_vitb16``).
        pretrained: timm's tag of its weights (``dino``), fetched by timm; None for random ones.
        checkpoint: weights from a local file or folder instead, in timm's, transformers' or the
            authors' layout, see `sclip_lab.network.checkpoint`.
        weights: which weights of a checkpoint that holds several, such as ``teacher``.
        precision, device, seed, position_embedding, padding, mean, std: as in
            `sclip_lab.network.loading.load_backbone`; mean and std are timm's by default.
        options: more arguments of the timm model, such as ``depth`` or ``embed_dim``.
        role: the network's key in the configuration, for messages.

    Raises:
        LabError: unknown name or tag (did you mean), a network of another kind, options that cannot
            be meant or name files, or weights that cannot be fetched, do not fit or are not finite.
    """
    shared = {"precision": precision, "padding": padding, "seed": seed, "mean": mean, "std": std}
    check_options(f"{role}.", **shared)
    full = HUB_NAMES.get(name, name)
    architecture, _, tag = full.partition(".")
    fetched = checkpoint is None and pretrained is not None
    if fetched and pretrained != tag:
        tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
        if pretrained not in tags:
            raise unknown(f"pretrained tag of {name}", str(pretrained), tags)
        full = f"{architecture}.{pretrained}"
    device = check_device(device)
    model = _built(full, name, fetched, seed, dict(options or {}), role)
    source = f"timm {full}" if fetched else f"random, seed {seed}"
    statistics = model.pretrained_cfg
    if weights is not None and checkpoint is None:
        raise LabError(f"weights={weights} chooses among those of a checkpoint; there is none")
    if checkpoint is not None:
        source = str(checkpoint)
        load_timm_weights(model, read_checkpoint(Path(checkpoint), weights), source, name, role)
        if mean is None or std is None:
            statistics = _of_checkpoint(Path(checkpoint), statistics, name, bool(tag), role)
    check_finite(model, source)
    backbone = Backbone(
        name=name,
        model=model,
        tokenize=None,
        position_embedding=position_embedding,
        padding=padding,
        mean=tuple(255 * value for value in statistics["mean"]) if mean is None else tuple(mean),
        std=tuple(255 * value for value in statistics["std"]) if std is None else tuple(std),
        description={
            "name": name,
            "pretrained": pretrained if fetched else None,
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
            "seed": seed if not fetched and checkpoint is None else None,
        },
    )
    if checkpoint is not None:
        check_config(folder_of(Path(checkpoint)), backbone)
    return prepared(backbone, precision, device)


def _of_checkpoint(
    checkpoint: Path, of_name: Mapping[str, Any], name: str, has_tag: bool, role: str
) -> Mapping[str, Any]:
    """Return the channel statistics in 0 .. 1 of a user's own weights: those of timm's
    ``config.json`` beside them, otherwise timm's of the name, with a warning where a name without
    tag has several."""
    path = folder_of(checkpoint) / "config.json"
    stated = read_architecture(path).get("pretrained_cfg") if path.is_file() else None
    if isinstance(stated, Mapping) and stated.get("mean") and stated.get("std"):
        for key in ("mean", "std"):
            check(f"{path}: pretrained_cfg.{key}", stated[key], tuple[float, float, float])
        return stated
    notes = (timm.get_pretrained_cfg(tagged) for tagged in timm.list_pretrained(f"{name}.*"))
    choices = {of_note({"mean": note.mean, "std": note.std}) for note in notes if note is not None}
    if not has_tag and len(choices) > 1:
        warn_of_statistics(name, [255 * value for value in of_name["mean"]], choices, role)
    return of_name


def _built(
    timm_name: str, name: str, pretrained: bool, seed: int, options: dict[str, Any], role: str
) -> Any:
    architecture = timm_name.partition(".")[0]
    if architecture not in timm.list_models():
        raise unknown(role, name, [*HUB_NAMES, *timm.list_models("*vit*")])
    for key, value in options.items():
        if isinstance(value, int | float):
            within(f"{role}.options.{key}", value, -1, MOST.get(key, 65_536))
        if key.startswith(FROM_ELSEWHERE):
            raise LabError(
                f"{role}.options.{key} loads what may run code; weights are given as "
                f"{role}.checkpoint=<file>"
            )
    create = {"pretrained": pretrained, "num_classes": 0, **options}
    try:
        with quiet(), seeded(seed):
            try:
                # Position embeddings for images of any size, where the network offers them.
                return timm.create_model(timm_name, dynamic_img_size=True, **create)
            except TypeError as error:
                if "dynamic_img_size" not in str(error):
                    raise
                return timm.create_model(timm_name, **create)
    except (OSError, ImportError) as error:
        raise LabError(
            f"{role} {name}: timm could not fetch its weights ({error}); on a machine without "
            f"that network give {role}.checkpoint=<local file>"
        ) from error
    # Options that cannot be meant break a network's code in many ways.
    except Exception as error:
        used = f" with {role}.options {shown(options)}" if options else ""
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise LabError(f"{role} {name}: timm cannot build it{used}: {why}") from error
