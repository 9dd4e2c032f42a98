"""One W&B run per cell and one per sweep, mirroring what the store holds.

The only module that imports wandb. A run's id is a digest of its cell, of the sweep that asked for
it and of the part of the data, so the same command updates its own runs and no other sweep's. What
a run holds is remembered in ``<store>/tracking/<id>.json``, and a run that would be the same again
is not written again. Runs are written in the background: see `later` and `finish`.

Under a W&B agent (``wandb agent``) the agent's environment names the run, and that name is kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import netrc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import pandas as pd
from omegaconf import DictConfig
from PIL import Image

from sclip_lab import results
from sclip_lab.core import files
from sclip_lab.core.errors import LabError
from sclip_lab.core.identity import digest
from sclip_lab.core.values import check as check_value
from sclip_lab.evaluation.spec import ORACLE, Spec
from sclip_lab.results.store import picture_files
from sclip_lab.results.store.store import Store

log = logging.getLogger(__name__)
AGENT = "WANDB_SWEEP_ID"  # in the environment of a run that a W&B agent starts
WHOLE = (0, 1)  # the shard that is all of a data set
_TAG = 64  # letters of a tag that W&B takes
# A run mostly waits for W&B's own process.
_writers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="wandb")
_begun: list[Future[Any]] = []
_unchanged: list[Path] = []  # directories of runs that need not be written again


def later(write: Callable[[], object]) -> None:
    """Write a run in the background while the next job goes on."""
    _begun.append(_writers.submit(write))


def finish() -> None:
    """Wait for all runs; log one warning for each that could not be written. Its numbers are in
    the store all the same."""
    while _begun:
        try:
            _begun.pop(0).result()
        except (LabError, OSError) as error:
            log.warning("%s; the numbers are in the store", error)
    if _unchanged:
        many = f"{len(_unchanged)} runs are" if len(_unchanged) > 1 else "the run is"
        log.info("W&B: %s as written before, such as %s", many, _unchanged[0])
    _unchanged.clear()


def check(config: DictConfig, jobs: int = 1) -> None:
    """Find out before anything is computed whether so many jobs can be logged.

    Raises:
        LabError: unknown mode, ``online`` without a key, or several jobs in the one run of a W&B
            agent.
    """
    check_value("tracking.mode", config.mode, Literal["offline", "online", "disabled"])
    if config.mode == "online" and not _has_key():
        raise LabError(
            "tracking=online needs a W&B key: type wandb login or set WANDB_API_KEY; "
            "tracking=offline needs none"
        )
    if config.mode != "disabled" and jobs > 1 and AGENT in os.environ:
        raise LabError(
            f"{AGENT} is set: a W&B agent wants one run of each call, not {jobs}; leave out -m, or "
            "set tracking=disabled"
        )


def _has_key() -> bool:
    """Whether W&B would find a key without asking; wandb's own function for this is deprecated."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    host = urlsplit(wandb.Settings().base_url).hostname
    try:
        entries = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return host is not None and host in entries.hosts


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
        spec: the cell; its record becomes the run's config.
        store: where the cell's rows and pictures are.
        outcome: result.json's content.
        group: the sweep's name, or None.
        output: the job's directory; offline runs are written below it.
        sweep: the id of the sweep that the cell is a part of (`sweep_id`), or "".

    Returns:
        the run's directory; the directory of an earlier run if nothing is new; None when disabled.

    Raises:
        LabError: unknown mode, or W&B cannot write or send.
    """
    check(config)
    if config.mode == "disabled":
        return None
    names = ("miou", "low", "high", "pixel_accuracy", "images", "of", "skipped")
    logged: dict[str, Any] = {n: outcome[n] for n in names if n in outcome}
    for kind in ("iou", "diagnostics", "spread"):
        values = outcome.get(kind) or {}
        logged |= {f"{kind}/{key}": values[name] for name, key in keys(values).items()}

    def content(wandb: Any) -> dict[str, Any]:
        classes = [[name, value] for name, value in outcome["iou"].items()]
        tables = {"iou_per_class": wandb.Table(["class", "iou"], data=classes)}
        df = results.load(store.root, [spec.key], partial=True)
        tables["per_image"] = wandb.Table(dataframe=per_image(df))
        return logged | tables | _pictures(wandb, spec, store, int(config.images))

    record = spec.record()
    record["images"] = len(record["images"])
    part = shard_name(outcome.get("shard", WHOLE))
    words = [spec.label, spec.dataset.name, spec.protocol.name, spec.backbone.name]
    sweep = config.group or sweep
    return _log(
        config,
        content,
        output,
        store.root,
        {"outcome": outcome, "sweep": sweep, "beside": _stamps(store.root, spec.key)},
        id=_id(spec.key, sweep, part),
        group=group,
        job_type="cell",
        name=" ".join([*words, *([part] if part else [])]),
        tags=_tags([*record["names"].values(), part, ORACLE if spec.oracle else ""]),
        config=record,
    )


def log_sweep(
    config: DictConfig,
    store: str | Path,
    df: pd.DataFrame,
    group: str | None,
    output: Path,
    summary: pd.DataFrame | None = None,
    shard: Sequence[int] = WHOLE,
) -> Path | None:
    """Log a sweep as a whole: its table, every diagnostic against the score, and the report that
    ``sclip-lab report`` draws of it, which stays below ``output`` too.

    Args:
        config, group, output: see `log_run`, also for what is returned.
        store: the store's root folder.
        df: the sweep's rows, as `results.load` gives them.
        summary: `results.summary` of ``df`` if there is one already.
        shard: the part of the data sets that was evaluated: its number, and the number of parts.
    """
    check(config)
    if config.mode == "disabled":
        return None
    cells = list(df["spec"].astype(str).unique())
    table = results.summary(df) if summary is None else summary

    def content(wandb: Any) -> dict[str, Any]:
        from sclip_lab.paper import published
        from sclip_lab.report import page
        from sclip_lab.report.evidence import Evidence
        from sclip_lab.report.store_report import sections, seeds

        flat = table.astype({c: str for c in table if table[c].dtype == "category"})
        logged: dict[str, Any] = {"scores": wandb.Table(dataframe=flat)}
        measured = results.diagnostics(store, cells)
        if len(measured):
            means = measured.groupby(["spec", "measure"], observed=True)["value"].mean().unstack()
            joined = table[["spec", "attention", "miou"]].merge(means.reset_index(), on="spec")
            scatter = wandb.Table(dataframe=joined.astype({"spec": str, "attention": str}))
            logged["diagnostics_against_miou"] = scatter
            for measure, key in keys(map(str, means)).items():
                title = f"{measure} against mIoU"
                plot = wandb.plot.scatter(scatter, measure, "miou", title=title)
                logged[f"scatter/{key}"] = plot
        evidence = Evidence(df, measured, picture_files.load(store, cells))
        over_seeds = [
            spread for part in evidence.by_photos().values() if (spread := seeds(part)) is not None
        ]
        if over_seeds:
            logged["seeds"] = wandb.Table(dataframe=pd.concat(over_seeds))
        parts = sections(evidence, scores=published.scores)
        report, *_ = page.write(parts, output / "report", group or name)
        logged["report"] = wandb.Html(str(report), inject=False)
        return logged

    shown = ["spec", "attention", "miou", "low", "high", "images"]
    part, sweep = shard_name(shard), config.group or sweep_id(cells)
    name = f"sweep of {len(cells)} cells"
    return _log(
        config,
        content,
        output,
        Path(store),
        {
            "scores": table[shown].astype(str).to_numpy().tolist(),
            "sweep": sweep,
            "beside": [_stamps(Path(store), key) for key in cells],
        },
        id=_id("sweep", *sorted(cells), sweep, part),
        group=group,
        job_type="sweep",
        name=f"{name} {part}" if part else name,
        tags=_tags(["sweep", part]),
        config={"cells": cells},
    )


def sweep_id(cells: Iterable[str]) -> str:
    """The W&B id of a sweep of these cells (first digits of keys), which its runs share."""
    return _id("sweep", *sorted(cells))


def shard_name(shard: Sequence[int]) -> str:
    """ "part 1 of 2" of shard [0, 2]; "" of a whole data set."""
    number, parts = shard
    return "" if parts == 1 else f"part {number + 1} of {parts}"


def keys(names: Iterable[str]) -> dict[str, str]:
    """Map names to different keys of a run. Blanks become ``_``, other signs their percent code
    (``C++`` and ``C#`` become ``C%2B%2B`` and ``C%23``). Names whose keys would still be equal get
    their number behind a ``#``, which no other key has.

    >>> keys(["alarm clock", "alarm_clock", "C#"])
    {'alarm clock': 'alarm_clock#0', 'alarm_clock': 'alarm_clock#1', 'C#': 'C%23'}
    """
    plain = {name: quote("_".join(name.split()), safe="/") for name in names}
    alike = list(plain.values())
    return {
        name: f"{key}#{number}" if alike.count(key) > 1 else key
        for number, (name, key) in enumerate(plain.items())
    }


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
    root: Path,
    decides: Mapping[str, Any],
    **run: Any,
) -> Path:
    """Write a run, unless one of equal id, name, tracking settings and ``decides`` was written."""
    where = [str(tracking[name]) for name in ("mode", "project", "entity", "images")]
    whole = digest({**decides, "where": where, "name": run["name"]})
    agent = os.environ.get(AGENT) if run["job_type"] == "cell" else None
    memory = root / "tracking" / f"{run['id']}.json"
    if not agent and (directory := _written(memory, whole)) is not None:
        _unchanged.append(directory)
        return directory
    # wandb takes a second to import, so only runs that are written import it.
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    if agent:  # the agent's environment has the run's id
        run["id"] = os.environ.get("WANDB_RUN_ID", run["id"])
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
                sweep_id=agent,
            ),
            **run,
        )
        # Logged values are history and summary at once.
        started.log(content(wandb))
        directory = Path(started.dir).parent
        started.finish()
    except (wandb.Error, OSError) as error:
        raise LabError(f"W&B run in {output} cannot be written: {error}") from error
    # A store that cannot be written forgets the run, which is then written again the next time.
    with contextlib.suppress(LabError):
        memo = {"content": whole, "directory": str(directory.absolute())}
        files.write_text(memory, json.dumps(memo, indent=1))
    return directory


def _written(memory: Path, content: str) -> Path | None:
    """The directory of the run that was written with this content, if it is still there."""
    try:
        memo = json.loads(memory.read_text(encoding="utf-8"))
        same, directory = memo["content"] == content, Path(memo["directory"])
    except (OSError, ValueError, KeyError, TypeError):  # never written, or damaged
        return None
    return directory if same and directory.is_dir() else None


def _stamps(root: Path, key: str) -> list[tuple[str, int, int]]:
    """Name, size and time of a cell's pictures and diagnostics; ``key`` begins the cell's key."""
    patterns = ("pictures/*.npz", "diagnostics-*.parquet")
    paths = sorted(file for part in patterns for file in root.glob(f"specs/{key}*/{part}"))
    return [(file.name, (at := file.stat()).st_size, at.st_mtime_ns) for file in paths]


def _id(*parts: str) -> str:
    """An id, which is the same whenever the same parts are logged."""
    return digest(list(parts))[:16]


def _tags(names: Iterable[str]) -> list[str]:
    return sorted({str(name)[:_TAG] for name in names if name})


def _pictures(wandb: Any, spec: Spec, store: Store, count: int) -> dict[str, Any]:
    """Photos with masks as overlays, a key each because sizes differ, and attention maps."""
    labels = dict(enumerate(spec.vocabulary.names)) | {spec.dataset.ignore_index: "void"}
    pictures = picture_files.load(store.root, [spec.key])[:count] if count else []
    logged, names = {}, keys(picture.name for picture in pictures)
    for picture in pictures:
        masks = {
            "prediction": {"mask_data": picture.predictions[0].prediction, "class_labels": labels},
            "truth": {"mask_data": picture.mask, "class_labels": labels},
        }
        image = wandb.Image(picture.image, masks=masks, caption=picture.name)
        logged[f"predictions/{names[picture.name]}"] = image
    if any(picture.predictions[0].attention is not None for picture in pictures):
        from sclip_lab.report.pictures import attention_maps

        file = io.BytesIO()
        attention_maps(pictures).savefig(file, format="png", dpi=150)
        logged["attention_maps"] = wandb.Image(Image.open(file))
    return logged
