"""One W&B run per job, mirroring what the store holds. The only module that imports wandb."""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig

from sclip_lab.errors import LabError, unknown
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results import panels
from sclip_lab.results.store import Store

log = logging.getLogger(__name__)
MODES = ("offline", "online", "disabled")


def check(config: DictConfig) -> None:
    """Find out before anything is computed whether it can be logged.

    Raises:
        LabError: unknown mode, or ``online`` without a key.
    """
    if config.mode not in MODES:
        raise unknown("tracking.mode", str(config.mode), MODES)
    if config.mode != "online":
        return
    if not _has_key():
        raise LabError(
            "tracking=online needs a W&B key: type wandb login or set WANDB_API_KEY; "
            "tracking=offline needs none"
        )


def _has_key() -> bool:
    """Whether W&B would find a key without asking; wandb's own question for it is deprecated."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    host = urlsplit(wandb.Settings().base_url).hostname
    try:
        found = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return host is not None and host in found.hosts


def log_run(
    config: DictConfig,
    spec: Spec,
    store: Store,
    outcome: Mapping[str, Any],
    group: str | None,
    output: Path,
) -> Path | None:
    """Log one finished cell.

    Args:
        config: the ``tracking`` group: mode, project, entity, images.
        spec: the cell; its record becomes the run's config.
        store: where its pictures are.
        outcome: result.json's content: miou, interval, iou per class, diagnostics.
        group: the sweep's name, or None.
        output: the job's directory; offline runs are written below it.

    Returns:
        the run's directory, or None when disabled.

    Raises:
        LabError: unknown mode, or W&B cannot write or send.
    """
    check(config)
    if config.mode == "disabled":
        return None
    # wandb takes a second to import, which a disabled run need not wait for.
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        return _log(wandb, config, spec, store, outcome, group, output)
    except (wandb.Error, OSError) as error:
        raise LabError(f"W&B run in {output} cannot be written: {error}") from error


def _log(
    wandb: Any,
    config: DictConfig,
    spec: Spec,
    store: Store,
    outcome: Mapping[str, Any],
    group: str | None,
    output: Path,
) -> Path:
    run = wandb.init(
        mode=config.mode,
        project=config.project,
        entity=config.entity,
        group=group,
        name=f"{spec.label} {spec.dataset.name} {spec.backbone.name}",
        config=spec.record(),
        dir=str(output),
        settings=wandb.Settings(
            console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True
        ),
    )
    names = ("miou", "low", "high", "pixel_accuracy", "images", "of", "skipped", "key")
    scores = {name: outcome[name] for name in names if name in outcome}
    scores |= {f"iou/{name}": value for name, value in outcome["iou"].items()}
    scores |= {f"diagnostics/{name}": value for name, value in outcome["diagnostics"].items()}
    run.summary.update(scores)
    rows: list[Any] = [[name, value] for name, value in outcome["iou"].items()]
    logged: dict[str, Any] = {"iou per class": wandb.Table(["class", "iou"], data=rows)}
    logged |= _pictures(wandb, spec, store, int(config.images))
    run.log(logged)
    directory = Path(run.dir).parent
    run.finish()
    return directory


def _pictures(wandb: Any, spec: Spec, store: Store, count: int) -> dict[str, Any]:
    """Photos with truth and prediction as W&B's mask overlays; a key each, for sizes differ."""
    labels = dict(enumerate(spec.vocabulary.names)) | {spec.dataset.ignore_index: "void"}
    found = {}
    for panel in panels.load(store.root, [spec.key])[:count] if count else []:
        masks = {
            "prediction": {"mask_data": panel.predictions[0].prediction, "class_labels": labels},
            "truth": {"mask_data": panel.mask, "class_labels": labels},
        }
        name = f"predictions/{panel.name}"
        found[name] = wandb.Image(panel.image, masks=masks, caption=panel.name)
    return found
