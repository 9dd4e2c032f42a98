"""One W&B run per cell and one per sweep, mirroring what the store holds.

The only module that imports wandb. A run's id is made from the cell's key, so that a repeated job
updates its run. Runs are written in the background: see `later` and `finish`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import netrc
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from omegaconf import DictConfig
from PIL import Image

from sclip_lab import results
from sclip_lab.errors import LabError, unknown
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results import panels
from sclip_lab.results.store import Store

log = logging.getLogger(__name__)
MODES = ("offline", "online", "disabled")
# A run mostly waits for W&B's own process.
_writers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="wandb")
_written: list[Future[Any]] = []


def later(write: Callable[[], object]) -> None:
    """Let a run be written while the next job goes on."""
    _written.append(_writers.submit(write))


def finish() -> None:
    """Wait for all runs; one warning for each that could not be written. Numbers are in the store
    all the same."""
    while _written:
        try:
            _written.pop(0).result()
        except (LabError, OSError) as error:
            log.warning("%s; the numbers are in the store", error)


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
    """Log one cell.

    Args:
        config: the ``tracking`` group: mode, project, entity, images.
        spec: the cell; its record becomes the run's config, the list of images left out.
        store: where its rows and pictures are.
        outcome: result.json's content: miou, interval, iou per class, diagnostics.
        group: the sweep's name, or None.
        output: the job's directory; offline runs are written below it.

    Returns:
        the run's directory, or None when disabled.

    Raises:
        LabError: unknown mode, or W&B cannot write or send.
    """
    names = ("miou", "low", "high", "pixel_accuracy", "images", "of", "skipped")
    logged: dict[str, Any] = {n: outcome[n] for n in names if n in outcome}
    for kind in ("iou", "diagnostics", "spread"):
        logged |= {f"{kind}/{_key(n)}": v for n, v in (outcome.get(kind) or {}).items()}

    def content(wandb: Any) -> dict[str, Any]:
        classes = [[name, value] for name, value in outcome["iou"].items()]
        tables = {"iou_per_class": wandb.Table(["class", "iou"], data=classes)}
        df = results.load(store.root, [spec.key], partial=True)
        tables["per_image"] = wandb.Table(dataframe=per_image(df))
        return logged | tables | _pictures(wandb, spec, store, int(config.images))

    record = spec.record()
    record["images"] = len(record["images"])
    names_of = record["names"]
    return _log(
        config,
        content,
        output,
        id=_id(spec.key),
        group=group,
        job_type="cell",
        name=f"{spec.label} {spec.dataset.name} {spec.backbone.name}",
        tags=sorted({str(names_of[n])[:64] for n in names_of if names_of[n]}),
        config=record,
    )


def log_sweep(
    config: DictConfig,
    store: str | Path,
    df: pd.DataFrame,
    group: str | None,
    output: Path,
) -> Path | None:
    """Log a sweep as a whole: its table, every diagnostic against the score, and the report that
    ``sclip-lab report`` draws of it, which stays below ``output`` too.

    Args:
        config: the ``tracking`` group.
        store: its root.
        df: the sweep's rows, as `results.load` gives them.
        group: the sweep's name.
        output: its directory.
    """
    keys = list(df["spec"].astype(str).unique())

    def content(wandb: Any) -> dict[str, Any]:
        from sclip_lab.report import figures, page
        from sclip_lab.report.found import Found
        from sclip_lab.report.measured import diagnostics
        from sclip_lab.report.store import sections

        summary = results.summary(df)
        flat = summary.astype({c: str for c in summary if summary[c].dtype == "category"})
        logged: dict[str, Any] = {"scores": wandb.Table(dataframe=flat)}
        logged["bars"] = wandb.Image(_drawn(figures.bars(df)))
        measured = results.diagnostics(store, keys)
        if len(measured):
            logged["diagnostics"] = wandb.Image(_drawn(diagnostics(measured)))
            means = measured.groupby(["spec", "measure"], observed=True)["value"].mean().unstack()
            joined = summary[["spec", "attention", "miou"]].merge(means.reset_index(), on="spec")
            joined = joined.astype({"spec": str, "attention": str})
            scatter = wandb.Table(dataframe=joined)
            logged["diagnostics_against_miou"] = scatter
            for measure in means:
                title = f"{measure} against mIoU"
                plot = wandb.plot.scatter(scatter, measure, "miou", title=title)
                logged[f"scatter/{_key(str(measure))}"] = plot
        found = Found(df, measured, panels.load(store, keys))
        title = group or f"sweep of {len(keys)} cells"
        report, *_ = page.write(sections(found), output / "report", title)
        logged["report"] = wandb.Html(str(report), inject=False)
        return logged

    return _log(
        config,
        content,
        output,
        id=_id("sweep", *sorted(keys)),
        group=group,
        job_type="sweep",
        name=f"sweep of {len(keys)} cells",
        tags=["sweep"],
        config={"cells": keys},
    )


def per_image(df: pd.DataFrame) -> pd.DataFrame:
    """One row per image of one cell: image, pixel_accuracy, miou over the classes that occur in
    its truth or prediction (fractions; NaN for an image of void alone)."""
    scores = {"pixel_accuracy": results.pixel_accuracy(df, "image")}
    scores["miou"] = results.miou(df, "image")
    return pd.DataFrame(scores).rename_axis("image").reset_index().astype({"image": str})


def _log(
    tracking: DictConfig,
    content: Callable[[Any], dict[str, Any]],
    output: Path,
    **run: Any,
) -> Path | None:
    check(tracking)
    if tracking.mode == "disabled":
        return None
    # wandb takes a second to import, which a disabled run need not wait for.
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    try:
        started = wandb.init(
            mode=tracking.mode,
            project=tracking.project,
            entity=tracking.entity,
            dir=str(output),
            reinit="create_new",
            # Offline there is nothing to resume; `wandb sync` updates the run of that id.
            resume="allow" if tracking.mode == "online" else None,
            settings=wandb.Settings(
                console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True
            ),
            **run,
        )
        # Logged values are history and summary at once.
        started.log(content(wandb))
        directory = Path(started.dir).parent
        started.finish()
    except (wandb.Error, OSError) as error:
        raise LabError(f"W&B run in {output} cannot be written: {error}") from error
    return directory


def _id(*parts: str) -> str:
    """The same for the same cells, whenever they are logged."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _key(name: str) -> str:
    """A name without blanks, for W&B's expressions."""
    return re.sub(r"[^\w./-]+", "_", name)


def _pictures(wandb: Any, spec: Spec, store: Store, count: int) -> dict[str, Any]:
    """Photos with truth and prediction as W&B's mask overlays; a key each, for sizes differ. And
    the attention maps of the points that the store holds."""
    labels = dict(enumerate(spec.vocabulary.names)) | {spec.dataset.ignore_index: "void"}
    kept = panels.load(store.root, [spec.key])[:count] if count else []
    found = {}
    for panel in kept:
        masks = {
            "prediction": {"mask_data": panel.predictions[0].prediction, "class_labels": labels},
            "truth": {"mask_data": panel.mask, "class_labels": labels},
        }
        name = f"predictions/{_key(panel.name)}"
        found[name] = wandb.Image(panel.image, masks=masks, caption=panel.name)
    if any(panel.predictions[0].attention is not None for panel in kept):
        from sclip_lab.report.pictures import attention_maps

        found["attention_maps"] = wandb.Image(_drawn(attention_maps(kept)))
    return found


def _drawn(figure: Any) -> Image.Image:
    """A matplotlib figure as a picture, without pyplot."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return Image.open(file)
