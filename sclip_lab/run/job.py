"""Run jobs: make specs of composed configurations, evaluate them, and write what a job reports."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import sclip_lab.results as results
from sclip_lab.attention.variant import build
from sclip_lab.config import guard, plugins
from sclip_lab.config.composition import PLACES, plain_config
from sclip_lab.config.registry import (
    backbone_loader,
    load_group,
    load_protocol,
    names,
    variant_label,
)
from sclip_lab.config.schema import check_settings
from sclip_lab.core import files
from sclip_lab.core.errors import LabError, about, describe, traceback_of
from sclip_lab.core.functions import bind
from sclip_lab.core.timings import Timings
from sclip_lab.data.base import Dataset, whole_counts
from sclip_lab.data.base import build as build_dataset
from sclip_lab.evaluation.loop import Unfinished, evaluate
from sclip_lab.evaluation.observers import Diagnostics, Pictures
from sclip_lab.evaluation.spec import Spec
from sclip_lab.paper import published
from sclip_lab.results.store import machines, sweeps
from sclip_lab.results.store.reading import SHORT
from sclip_lab.results.store.spec_labels import PLAIN
from sclip_lab.results.store.store import Store
from sclip_lab.run import tracking
from sclip_lab.run.known_words import strange_words
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.protocol import build as build_protocol

if TYPE_CHECKING:
    from sclip_lab.network.backbone import Backbone
    from sclip_lab.network.guidance import Guide

log = logging.getLogger(__name__)
# Keys whose values must be equal for jobs to be evaluated together.
TOGETHER = ("paths", "pictures", "diagnostics", "batch_images", "batch_windows", "trunk_cache",
            "shard", "on_error", "progress")  # fmt: skip


class Outcome(NamedTuple):
    """What a job reports of its cell.

    Attributes:
        summary: the cell's row of `results.summary`.
        iou: the cell's IoU by class, a fraction.
        measured: the cell's diagnostics, as `Store.diagnostics` returns them.
        skipped: image -> why it was left out.
        sweep: id of the W&B run of the sweep; "" for a job that was computed alone.
    """

    spec: Spec
    summary: Mapping[str, Any]
    iou: dict[str, float]
    measured: pd.DataFrame
    skipped: dict[str, str]
    sweep: str = ""


T = TypeVar("T")
# Networks of this sweep that could not be made: (function, its configuration) -> why.
failures: dict[tuple[str, str], LabError] = {}
# Outcome or error of a sweep's jobs by their numbers, so that no job reads the store again.
_outcomes: dict[int, Outcome | Exception] = {}


def compute(
    configs: Sequence[DictConfig],
    keys: Sequence[str | None] | None = None,
    failed: Mapping[int, str] | None = None,
) -> list[Exception | None]:
    """Evaluate the cells of many jobs in as few passes as possible, and print the table.

    Args:
        configs: one for each job.
        keys: the cells' keys in the process that launched this one; None: it does not know them.
        failed: place in ``configs`` -> why, of cells that failed in another process.

    Returns:
        for each job its error, or None if the cell is complete.
    """
    _outcomes.clear()
    failures: list[Exception | None] = [None] * len(configs)
    jobs: dict[str, list[tuple[int, Spec]]] = {}
    for index, config in enumerate(configs):
        try:
            if failed and index in failed:
                raise LabError(failed[index])
            spec = make_spec(config)
            tracking.check(config.tracking, len(configs))
            if keys and (key := keys[index]) not in (None, spec.key):
                raise LabError(
                    f"{spec.label} is another cell here ({spec.key[:12]}, device "
                    f"{spec.backbone.device.type}) than where it was launched ({key}): "
                    "code, data, weights or kind of device differ"
                )
        except Exception as error:
            reported = {describe(e) for e in failures if e is not None}
            # A launcher of jobs, which passes ``failed``, has logged the jobs without a spec.
            if (failed is None or index in failed) and describe(error) not in reported:
                log.error("left out of the pass: %s", describe(error))
            failures[index] = error
            continue
        together = json.dumps([plain_config(config[key]) for key in TOGETHER])
        jobs.setdefault(together, []).append((index, spec))
    for members in jobs.values():
        config = configs[members[0][0]]
        # A launcher of jobs, which passes ``failed``, has noted the sweep; a shard is no sweep.
        if failed is None and OmegaConf.select(config, "hydra.sweep.dir") is not None:
            note_sweep([spec for _, spec in members], config)
        _compute_together(configs, members, failures)
    for config, failure in zip(configs, failures, strict=True):
        if failure is not None:
            set_outcome(config, failure)
    return failures


def note_sweep(specs: Sequence[Spec], config: DictConfig) -> None:
    """Write the names of cells, and the command, into the store's log of sweeps."""
    names: dict[str, dict[str, str]] = {}
    for spec in specs:
        names.setdefault(spec.key, spec.shown_names)
    name = config.tracking.group or OmegaConf.select(config, "hydra.runtime.choices.experiment")
    if name is None:
        name = "sweep" if len(names) > 1 else specs[0].label
    words = sys.argv[2:] if sys.argv[1:2] == ["evaluate"] else sys.argv[1:]
    command = shlex.join(["sclip-lab", "evaluate", *words])
    sweeps.note(Path(config.paths.store), str(name), command, names)


def set_outcome(config: DictConfig, outcome: Outcome | Exception) -> None:
    """Keep the outcome of a job until Hydra runs the job; keep nothing if it will not (a shard)."""
    number = OmegaConf.select(config, "hydra.job.num")
    if number is not None:
        _outcomes[number] = outcome


def _compute_together(
    configs: Sequence[DictConfig],
    members: Sequence[tuple[int, Spec]],
    failures: list[Exception | None],
) -> None:
    """Evaluate jobs that differ only in their cells."""
    config, timings = configs[members[0][0]], Timings()
    specs = [spec for _, spec in members]
    try:
        df, summary, outcomes = _evaluate(specs, config, timings)
    except Exception as error:
        log.error("the pass stopped: %s", describe(error))
        by_key = error.failed if isinstance(error, Unfinished) else {s.key: error for s in specs}
        for index, spec in members:
            failures[index] = by_key.get(spec.key)
        with contextlib.suppress(LabError):  # nothing was finished
            keys = [spec.key for spec in specs]
            log.info("\n%s\n", table(results.load(config.paths.store, keys, partial=True)))
        return
    together = len(members) > 1
    sweep = tracking.sweep_id(summary["spec"].astype(str)) if together else ""
    for (index, _), outcome in zip(members, outcomes, strict=True):
        set_outcome(configs[index], outcome._replace(sweep=sweep))
    log.info("\n%s\n\n%s\n", table(df, summary), timings.report())
    # A submitted job computes a part of the images, and does not know the sweep's folder.
    if together and OmegaConf.select(config, "hydra.sweep.dir") is not None:
        group, folder = _group(config, config.hydra), Path(config.hydra.sweep.dir)
        write = partial(tracking.log_sweep, config.tracking, config.paths.store, df, group)
        tracking.later(partial(write, folder, summary, tuple(config.shard)))


def run(config: DictConfig) -> float:
    """Run one job: evaluate what is missing, write result.json, log to W&B.

    Returns:
        the mIoU, between 0 and 1.
    """
    try:
        hydra = HydraConfig.get()
        outcome = None if hydra.mode == RunMode.RUN else _outcomes.pop(hydra.job.num, None)
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            spec = make_spec(config)
            tracking.check(config.tracking)
            if hydra.mode == RunMode.RUN:
                note_sweep([spec], config)
            _, _, [outcome] = _evaluate([spec], config, Timings())
        return _report(config, outcome)
    except Exception as error:
        _write_to_log(error)
        raise


def _write_to_log(error: Exception) -> None:
    """Write an error into the job's log file alone; the terminal shows it when the command ends."""
    lines = [f"error: {describe(error)}", traceback_of(error)]
    text = "\n".join(filter(None, lines))
    record = log.makeRecord(log.name, logging.ERROR, "", 0, text, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _report(config: DictConfig, outcome: Outcome) -> float:
    spec, summary, store = outcome.spec, outcome.summary, Store(config.paths.store)
    whole = outcome.measured[outcome.measured["layer"] < 0].dropna()
    measured = whole.groupby("measure", observed=True)["value"]
    output = Path(HydraConfig.get().runtime.output_dir)
    record: dict[str, Any] = {
        "key": spec.key,
        "label": spec.label,
        **{name: float(summary[name]) for name in ("miou", "low", "high", "pixel_accuracy")},
        **{name: int(summary[name]) for name in ("images", "of")},
        **({"shard": list(config.shard)} if tuple(config.shard) != tracking.WHOLE else {}),
        "skipped": outcome.skipped,
        "iou": outcome.iou,
        "diagnostics": {str(name): float(value) for name, value in measured.mean().items()},
        "spread": {str(name): float(value) for name, value in measured.std().dropna().items()},
    }
    images, of = record["images"], record["of"]
    log.info(
        "%s on %s%s: mIoU %.1f%s, store %s, cell %s",
        spec.label,
        spec.dataset.name,
        "" if images == of else f", over {images} of {of} images",
        100 * record["miou"],
        _interval(" [{:.1f}, {:.1f}]", record["low"], record["high"]),
        store.root,
        spec.key[:12],
    )
    for image, reason in outcome.skipped.items():
        log.warning("skipped %s: %s", image, reason)
    without_nan = json.loads(json.dumps(record), parse_constant=lambda _: None)  # JSON has no NaN
    try:
        files.write_text(output / "result.json", json.dumps(without_nan, indent=1))
    except (OSError, LabError) as error:  # a copy: the numbers are in the store
        log.warning("%s; the numbers are in the store %s", error, store.root)
    if _is_preset(spec, config, images):
        entries = plain_config(config.protocol).get("expected") or ()
        for line in published.against_expected(spec, record["miou"], entries):
            log.info("%s", line)
    group = _group(config, HydraConfig.get())
    write = partial(tracking.log_run, config.tracking, spec, store, record, group, output)
    tracking.later(partial(write, outcome.sweep))
    miou: float = record["miou"]
    return miou


def _interval(form: str, low: float, high: float) -> str:
    """An interval x100 as text; "" for a single image, which has none."""
    return "" if math.isnan(low) else form.format(100 * low, 100 * high)


def _is_preset(spec: Spec, config: DictConfig, images: int) -> bool:
    """Whether the published score applies: all images, and the protocol as in its file."""
    name = spec.protocol.name
    whole = images in whole_counts(plain_config(config.dataset).get("expected"))
    if not whole or name not in names("protocol") or spec.dataset.name not in names("dataset"):
        return False
    usual_split = load_group("dataset", spec.dataset.name).get("split")
    same_protocol = load_protocol(name, spec.dataset.name).key == spec.protocol.key
    return same_protocol and config.dataset.get("split") == usual_split


def make_spec(config: DictConfig) -> Spec:
    """The cell that a configuration describes."""
    guard.check_values(config)
    groups = check_settings(config)
    plugins.check(config.get("plugins") or ())
    dataset = make_dataset(json.dumps(groups["dataset"]))
    backbone = make_backbone(json.dumps(groups["backbone"]))
    chosen = OmegaConf.select(config, "hydra.runtime.choices.attention")
    if chosen is None and HydraConfig.initialized():
        chosen = HydraConfig.get().runtime.choices.get("attention")
    variant = build(groups["attention"], chosen and chosen.removesuffix(".yaml"))
    protocol = make_protocol(groups)
    guide = make_guidance(json.dumps(second)) if (second := groups.get("guidance")) else None
    label = variant_label(variant, protocol.name, dataset.name)
    return Spec(variant, backbone, protocol, dataset, label, guide)


def make_protocol(config: DictConfig | Mapping[str, Any]) -> Protocol:
    """The protocol of a configuration, with its values for the configuration's data set."""
    for group, place in PLACES.items():
        if config.get(group) is not None:
            raise LabError(
                f"{group}: its yaml must begin with '# @package {place}', as part of the protocol"
            )
    return build_protocol(plain_config(config["protocol"]))


def _once(make: Callable[[str], T]) -> Callable[[str], T]:
    """Call ``make`` once for a configuration, and raise its `LabError` again at the next call: a
    hub that cannot be reached takes a minute, and a sweep has many jobs."""

    @cache
    def once(config: str) -> T:
        key = make.__name__, config
        if key in failures:
            raise failures[key]
        try:
            return make(config)
        except LabError as error:
            failures[key] = error
            raise

    return once


@_once
def make_backbone(config: str) -> Backbone:
    """The network of a configuration (as JSON). Jobs with equal configurations share it."""
    values = json.loads(config)
    values.pop("usual", None)  # the tag that conf/config.yaml takes by default
    with about("backbone"):
        load = backbone_loader(values.pop("_target_", None))
        backbone: Backbone = bind(load, values, supplied=("state_dict",))()
    return backbone


@_once
def make_guidance(config: str) -> Guide:
    """The second network of a configuration (as JSON), shared by jobs."""
    from sclip_lab.network.guidance import load_guidance  # timm: slow to import

    with about("guidance"):
        guide: Guide = bind(load_guidance, json.loads(config))()
    return guide


@cache
def make_dataset(config: str) -> Dataset:
    """The data set of a configuration (as JSON), shared by jobs."""
    return build_dataset(json.loads(config))


def table(df: pd.DataFrame, summary: pd.DataFrame | None = None) -> str:
    """Scores x100 with 95 % intervals as text, and a column for each protocol field that differs.

    ``df`` is from `results.load`, ``summary`` from `results.summary` or None.
    """
    summary = results.summary(df) if summary is None else summary
    shown = summary[["attention", "backbone", "dataset", "protocol"]].astype(str)
    for name in (str(n) for n in summary if str(n).startswith("protocol.")):
        if name.endswith("._target_"):  # the function of a readout or refinement
            part = name.removesuffix("._target_")
            last = summary[name].astype(str).str.rpartition(".")[2]
            shown[part] = last.where(summary[name].notna(), PLAIN.get(part.rpartition(".")[2], ""))
        elif name.count(".") == 1 or summary[name].nunique() > 1:  # parameters that differ
            shown[name] = summary[name].astype(str).where(summary[name].notna(), "")
    shown["mIoU"] = (100 * summary["miou"]).map("{:.1f}".format)
    shown["95 % interval"] = [
        _interval("[{:.1f}, {:.1f}]", low, high)
        for low, high in zip(summary["low"], summary["high"], strict=True)
    ]
    shown["pixel accuracy"] = (100 * summary["pixel_accuracy"]).map("{:.1f}".format)
    if (summary["images"] < summary["of"]).any():
        shown["images"] = [f"{i} of {n}" for i, n in summary[["images", "of"]].to_numpy()]
    elif summary.groupby("dataset", observed=True)["images"].nunique().gt(1).any():
        shown["images"] = summary["images"]
    lines = [shown.to_string(index=False)]
    mixed = machines.note(df)
    lines += [f"beware: {mixed}"] if mixed else []
    labels = dict(zip(summary["spec"], summary["attention"], strict=True))
    for spec, images in df.attrs.get("skipped", {}).items():
        lines += [f"skipped by {labels[spec]}: {image} ({why})" for image, why in images.items()]
    return "\n".join(lines)


def observers_of(
    config: DictConfig, keys: Collection[str] | None = None
) -> list[Pictures | Diagnostics]:
    """What a configuration keeps of photos besides counts: of all cells, or of these ``keys``."""
    pictures, diagnostics = config.pictures, config.diagnostics
    observers: list[Pictures | Diagnostics] = []
    if pictures.images:
        observers.append(Pictures(pictures.images, pictures.points, keys=keys))
    if diagnostics.measures:
        layers = diagnostics.get("layers", False)
        measures = list(diagnostics.measures)
        observers.append(Diagnostics(measures, diagnostics.images, layers, keys))
    return observers


def evaluation_settings(config: DictConfig) -> dict[str, Any]:
    """How the evaluator works through the photos; no number depends on it."""
    settings = {name: config[name] for name in ("batch_images", "batch_windows", "progress")}
    return {**settings, "trunk_cache_gb": config.trunk_cache}


def _evaluate(
    specs: Sequence[Spec], config: DictConfig, timings: Timings
) -> tuple[pd.DataFrame, pd.DataFrame, list[Outcome]]:
    """The rows of several cells, their summary, and what the job of each cell reports."""
    by_words = {(spec.backbone.name, spec.vocabulary.key): spec for spec in specs}
    for spec in by_words.values():
        if warning := strange_words(spec.backbone.name, spec.vocabulary.queries):
            log.warning("%s: warning: %s", spec.dataset.name, warning)
    store, observers = Store(config.paths.store), observers_of(config)
    with _usual_garbage_collection():
        df = evaluate(
            specs,
            store,
            observers=observers,
            shard=tuple(config.shard),
            on_error=config.on_error,
            timings=timings,
            **evaluation_settings(config),
        )
    summary, ious = results.summary(df), results.iou(df)
    rows: dict[str, Any] = {str(row["spec"]): row for row in summary.to_dict("records")}
    outcomes = []
    for spec in specs:
        short = spec.key[:SHORT]
        iou = ious[ious["spec"].astype(str) == short]
        by_class = dict(zip(iou["class"].astype(str), iou["iou"].tolist(), strict=True))
        skipped = df.attrs["skipped"].get(short, {})
        measured = store.diagnostics(spec)
        outcomes.append(Outcome(spec, rows[short], by_class, measured, skipped))
    return df, summary, outcomes


@contextlib.contextmanager
def _usual_garbage_collection() -> Iterator[None]:
    """Collect as usual while networks run, since garbage can hold activations; see `cli.main`."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _group(config: DictConfig, hydra: Any) -> str | None:
    """A name for the sweep: its preset, and its folder, which is named by the time. None for a job
    that is not part of a sweep."""
    if config.tracking.group is not None:
        return str(config.tracking.group)
    if not hydra.mode or hydra.mode.name != "MULTIRUN":
        return None
    preset = hydra.runtime.choices.get("experiment")
    folder = Path(hydra.sweep.dir).as_posix()
    return f"{preset} {folder}" if preset else folder
