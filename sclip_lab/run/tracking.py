"""One W&B run per cell and one per sweep, mirroring what the store holds.

The only module that imports wandb. A run's id is made from the cell's key, so that a repeated job
updates its run; what would be the same again is not written again, see `sclip_lab.run.written`.
Runs are written in the background: see `later` and `finish`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import netrc
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from omegaconf import DictConfig
from PIL import Image

from sclip_lab import results
from sclip_lab.core.errors import LabError, unknown
from sclip_lab.evaluation.spec import ORACLE, Spec
from sclip_lab.results.store import panels
from sclip_lab.results.store.store import Store
from sclip_lab.run import written

log = logging.getLogger(__name__)
MODES = ("offline", "online", "disabled")
# A run mostly waits for W&B's own process.
_writers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="wandb")
_begun: list[Future[Any]] = []
_known: list[Path] = []  # directories of runs that need not be written again


def later(write: Callable[[], object]) -> None:
    """Let a run be written while the next job goes on."""
    _begun.append(_writers.submit(write))


def finish() -> None:
    """Wait for all runs; one warning for each that could not be written. Numbers are in the store
    all the same."""
    while _begun:
        try:
            _begun.pop(0).result()
        except (LabError, OSError) as error:
            log.warning("%s; the numbers are in the store", error)
    if _known:
        many = f"{len(_known)} runs are" if len(_known) > 1 else "the run is"
        log.info("W&B: %s as written before, such as %s", many, _known[0])
    _known.clear()


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


def _wanted(config: DictConfig) -> bool:
    check(config)
    return bool(config.mode != "disabled")


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
    sweep: str = "",
) -> Path | None:
    """Log one cell.

    Args:
        config: the ``tracking`` group: mode, project, entity, images.
        spec: the cell; its record becomes the run's config, the list of images left out.
        store: where its rows and pictures are.
        outcome: result.json's content: miou, interval, iou per class, diagnostics.
        group: the sweep's name, or None.
        output: the job's directory; offline runs are written below it.
        sweep: the run's id of the sweep that it is a part of (`sweep_id`).

    Returns:
        the run's directory, which is that of an earlier time where nothing is new; None when
        disabled.

    Raises:
        LabError: unknown mode, or W&B cannot write or send.
    """
    if not _wanted(config):
        return None
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
    tags = {str(names_of[n])[:64] for n in names_of if names_of[n]}
    tags |= {ORACLE} if spec.oracle else set()
    decides = {
        "outcome": outcome,
        "sweep": config.group or sweep,
        "beside": written.stamps(store.root, spec.key),
    }
    return _log(
        config,
        content,
        output,
        (store.root, decides),
        id=_id(spec.key),
        group=group,
        job_type="cell",
        name=f"{spec.label} {spec.dataset.name} {spec.backbone.name}",
        tags=sorted(tags),
        config=record,
    )


def log_sweep(
    config: DictConfig,
    store: str | Path,
    df: pd.DataFrame,
    group: str | None,
    output: Path,
    summary: pd.DataFrame | None = None,
) -> Path | None:
    """Log a sweep as a whole: its table, every diagnostic against the score, and the report that
    ``sclip-lab report`` draws of it, which stays below ``output`` too.

    Args:
        config: the ``tracking`` group.
        store: its root.
        df: the sweep's rows, as `results.load` gives them.
        group: the sweep's name.
        output: its directory.
        summary: `results.summary` of ``df`` if there is one already.

    Returns:
        as `log_run`.
    """
    if not _wanted(config):
        return None
    keys = list(df["spec"].astype(str).unique())
    table = results.summary(df) if summary is None else summary

    def content(wandb: Any) -> dict[str, Any]:
        from sclip_lab.report import page
        from sclip_lab.report.found import Found
        from sclip_lab.report.store_report import sections

        flat = table.astype({c: str for c in table if table[c].dtype == "category"})
        logged: dict[str, Any] = {"scores": wandb.Table(dataframe=flat)}
        measured = results.diagnostics(store, keys)
        if len(measured):
            means = measured.groupby(["spec", "measure"], observed=True)["value"].mean().unstack()
            joined = table[["spec", "attention", "miou"]].merge(means.reset_index(), on="spec")
            joined = joined.astype({"spec": str, "attention": str})
            scatter = wandb.Table(dataframe=joined)
            logged["diagnostics_against_miou"] = scatter
            for measure in means:
                title = f"{measure} against mIoU"
                plot = wandb.plot.scatter(scatter, measure, "miou", title=title)
                logged[f"scatter/{_key(str(measure))}"] = plot
        found = Found(df, measured, panels.load(store, keys), known=table)
        title = group or f"sweep of {len(keys)} cells"
        report, *files = page.write(sections(found), output / "report", title)
        logged["report"] = wandb.Html(str(report), inject=False)
        drawn = {file.stem: file for file in files if file.suffix == ".png"}
        for name in ("bars", "diagnostics"):
            if name in drawn:
                logged[name] = wandb.Image(str(drawn[name]))
        return logged

    shown = ["spec", "attention", "miou", "low", "high", "images"]
    decides = {
        "scores": table[shown].astype(str).to_numpy().tolist(),
        "sweep": config.group,
        "beside": [written.stamps(Path(store), key) for key in keys],
    }
    return _log(
        config,
        content,
        output,
        (Path(store), decides),
        id=sweep_id(keys),
        group=group,
        job_type="sweep",
        name=f"sweep of {len(keys)} cells",
        tags=["sweep"],
        config={"cells": keys},
    )


def sweep_id(specs: Iterable[str]) -> str:
    """The id of a sweep's run: the same for the same cells (beginnings of keys, as in a results
    DataFrame)."""
    return _id("sweep", *sorted(specs))


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
    decides: tuple[Path, Mapping[str, Any]],
    **run: Any,
) -> Path:
    """Write a run, unless it was written before: ``decides`` is the store's root, and what the
    run's content depends on besides its name and configuration."""
    root, content_of = decides
    where = [str(tracking[name]) for name in ("mode", "project", "entity", "images")]
    whole = {**content_of, "where": where, "name": run["name"]}
    again = written.Run(root, run["id"], whole)
    if (directory := again.before()) is not None:
        _known.append(directory)
        return directory
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
                console="off",
                x_disable_stats=True,
                x_disable_meta=True,
                disable_git=True,
                # W&B looks the list of packages up for each run, a second each: a sweep's own
                # run has it.
                x_save_requirements=run["group"] is None or run["job_type"] == "sweep",
            ),
            **run,
        )
        # Logged values are history and summary at once.
        started.log(content(wandb))
        directory = Path(started.dir).parent
        started.finish()
    except (wandb.Error, OSError) as error:
        raise LabError(f"W&B run in {output} cannot be written: {error}") from error
    again.remember(directory)
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
