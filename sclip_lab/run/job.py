"""From a composed configuration to specs, results, and what a job leaves behind."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sclip_lab import results
from sclip_lab.attention.variant import build
from sclip_lab.config import guard, plugins
from sclip_lab.config.composition import PLACES
from sclip_lab.config.plain_config import plain_config
from sclip_lab.config.registry import (
    backbone_loader,
    load_group,
    load_protocol,
    names,
    variant_label,
)
from sclip_lab.config.settings import check_settings
from sclip_lab.core import files
from sclip_lab.core.call import bind
from sclip_lab.core.errors import LabError
from sclip_lab.core.timings import Timings
from sclip_lab.data.base import Dataset
from sclip_lab.data.base import build as build_dataset
from sclip_lab.evaluation.loop import Unfinished, evaluate
from sclip_lab.evaluation.observers import Diagnostics, Pictures
from sclip_lab.evaluation.recorder import Observer
from sclip_lab.evaluation.spec import Spec
from sclip_lab.results.store import machines
from sclip_lab.results.store.reading import SHORT
from sclip_lab.results.store.store import Store
from sclip_lab.results.table import expected
from sclip_lab.run import collector, known_words, tracking
from sclip_lab.run.ending import asked_for, told
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.protocol import build as build_protocol

if TYPE_CHECKING:
    from sclip_lab.network.backbone import Backbone
    from sclip_lab.network.guidance import Guide

log = logging.getLogger(__name__)


class Cell(NamedTuple):
    """What a job tells of its cell.

    Attributes:
        spec: the cell.
        summary: its row of `results.summary`.
        iou: class -> IoU.
        measured: its diagnostics, as `Store.diagnostics` gives them.
        skipped: image -> why it was left out.
        sweep: id of the W&B run of the cells that were computed with it; "" alone.
    """

    spec: Spec
    summary: Mapping[str, Any]
    iou: dict[str, float]
    measured: pd.DataFrame
    skipped: dict[str, str]
    sweep: str

    @classmethod
    def of(
        cls,
        spec: Spec,
        df: pd.DataFrame,
        summary: pd.DataFrame,
        iou: pd.DataFrame,
        measured: pd.DataFrame,
        sweep: str = "",
    ) -> Cell:
        """From the tables of a pass over several cells."""
        short = spec.key[:SHORT]
        row = summary[summary["spec"].astype(str) == short].iloc[0]
        mine = iou[iou["spec"].astype(str) == short]
        return cls(
            spec,
            {str(k): v for k, v in row.items()},
            dict(zip(mine["class"].astype(str), mine["iou"].tolist(), strict=True)),
            measured,
            df.attrs["skipped"].get(short, {}),
            sweep,
        )


# What the pass over a sweep's jobs found, by their numbers; each job takes its own, instead of
# asking the store again.
_computed: dict[int, Cell] = {}


def compute(configs: Sequence[DictConfig]) -> list[str | None]:
    """Compute the cells of many jobs in as few passes as possible, and print the table.

    Returns:
        for each job, why it could not be computed, or None. The others are computed.
    """
    _computed.clear()
    failed: list[str | None] = [None] * len(configs)
    jobs: dict[str, list[tuple[int, Spec]]] = {}
    for number, config in enumerate(configs):
        try:
            spec = make_spec(config)
            tracking.check(config.tracking, len(configs))
        except Exception as error:
            if told(error) not in failed:
                log.error("left out of the pass: %s", told(error))
            failed[number] = told(error)
            continue
        # What must be equal for jobs to be evaluated together besides what specs know.
        keys = (
            "paths",
            "pictures",
            "diagnostics",
            "batch_images",
            "batch_windows",
            "trunk_cache",
            "shard",
            "on_error",
            "progress",
        )
        how = json.dumps([plain_config(config[key]) for key in keys])
        jobs.setdefault(how, []).append((number, spec))
    for members in jobs.values():
        config, timings = configs[members[0][0]], Timings()
        specs = [spec for _, spec in members]
        try:
            df, measured = _evaluate(specs, Store(config.paths.store), config, timings)
        except Exception as error:
            log.error("the pass stopped: %s", told(error), exc_info=asked_for() and error)
            known = error.failed if isinstance(error, Unfinished) else None
            for number, spec in members:
                if known is None or spec.key in known:
                    failed[number] = told(error if known is None else known[spec.key])
            with contextlib.suppress(LabError):  # nothing was finished
                df = results.load(config.paths.store, [spec.key for spec in specs], partial=True)
                log.info("\n%s\n", table(df))
            continue
        summary, per_class = results.summary(df), results.iou(df)
        sweep = tracking.sweep_id(summary["spec"].astype(str)) if len(members) > 1 else ""
        for number, spec in members:
            place = OmegaConf.select(configs[number], "hydra.job.num")
            if place is not None:  # not in a submitted job, which runs no job of Hydra's
                mine = measured[spec.key]
                _computed[place] = Cell.of(spec, df, summary, per_class, mine, sweep)
        log.info("\n%s\n\n%s\n", table(df, summary), timings.report())
        # A submitted job computes a part, and knows nothing of the sweep's folder.
        if len(members) > 1 and OmegaConf.select(config, "hydra.sweep.dir") is not None:
            group, folder = _group(config, config.hydra), Path(config.hydra.sweep.dir)
            write = partial(tracking.log_sweep, config.tracking, config.paths.store, df, group)
            tracking.later(partial(write, folder, summary, tuple(config.shard)))
        log.debug("%s", timings.table())
    return failed


def _interval(form: str, low: float, high: float) -> str:
    """Its ends x100; nothing for one image, which has no interval."""
    return "" if math.isnan(low) else form.format(100 * low, 100 * high)


def _without_nan(value: Any) -> Any:
    """null for what is not known: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run(config: DictConfig) -> float:
    """One job: compute what is missing, write result.json, log to W&B.

    Returns:
        mIoU, a fraction.
    """
    cell = _computed.pop(HydraConfig.get().job.num, None) if _computed else None
    cell = cell or _compute_alone(config)
    store = Store(config.paths.store)
    spec, summary, skipped = cell.spec, cell.summary, cell.skipped
    whole = cell.measured[cell.measured["layer"] < 0].dropna()
    measured = whole.groupby("measure", observed=True)["value"]
    output = Path(HydraConfig.get().runtime.output_dir)
    outcome = {
        "key": spec.key,
        "label": spec.label,
        "miou": float(summary["miou"]),
        "low": float(summary["low"]),
        "high": float(summary["high"]),
        "pixel_accuracy": float(summary["pixel_accuracy"]),
        "images": int(summary["images"]),
        "of": int(summary["of"]),
        **({"shard": list(config.shard)} if tuple(config.shard) != tracking.WHOLE else {}),
        "skipped": skipped,
        "iou": cell.iou,
        "diagnostics": {str(name): float(value) for name, value in measured.mean().items()},
        "spread": {str(name): float(value) for name, value in measured.std().dropna().items()},
    }
    log.info(
        "%s on %s%s: mIoU %.1f%s, store %s, cell %s",
        spec.label,
        spec.dataset.name,
        _share(outcome),
        100 * float(summary["miou"]),
        _interval(" [{:.1f}, {:.1f}]", float(summary["low"]), float(summary["high"])),
        store.root,
        spec.key[:12],
    )
    for image, reason in skipped.items():
        log.warning("skipped %s: %s", image, reason)
    text = json.dumps(_without_nan(outcome), indent=1, allow_nan=False)
    _keep(lambda: files.write_text(output / "result.json", text), store)
    if _is_preset(spec, config, int(summary["images"])):
        entries = plain_config(config.protocol).get("expected") or ()
        for line in expected.report(spec, float(summary["miou"]), entries):
            log.info("%s", line)
    group = _group(config, HydraConfig.get())
    write = partial(tracking.log_run, config.tracking, spec, store, outcome, group, output)
    tracking.later(partial(write, cell.sweep))
    return float(summary["miou"])


def _compute_alone(config: DictConfig) -> Cell:
    spec = make_spec(config)
    tracking.check(config.tracking)
    df, measured = _evaluate([spec], Store(config.paths.store), config, Timings())
    return Cell.of(spec, df, results.summary(df), results.iou(df), measured[spec.key])


def _share(outcome: Mapping[str, Any]) -> str:
    """What a score over a part of the data says of itself."""
    images, of = outcome["images"], outcome["of"]
    return "" if images == of else f", over {images} of {of} images"


def _keep(report: Callable[[], object], store: Store) -> None:
    """Reports are copies: where one cannot be written, the numbers still are in the store."""
    try:
        report()
    except (OSError, LabError) as error:
        log.warning("%s; the numbers are in the store %s", error, store.root)


def _is_preset(spec: Spec, config: DictConfig, images: int) -> bool:
    """Whether a published score can be expected: all images, and the protocol as in its file."""
    name, counts = spec.protocol.name, plain_config(config.dataset).get("expected")
    whole = images in (counts if isinstance(counts, list) else [counts])
    known = name in names("protocol") and spec.dataset.name in names("dataset")
    if not whole or not known:
        return False
    usual_split = load_group("dataset", spec.dataset.name).get("split")
    same_protocol = load_protocol(name, spec.dataset.name).key == spec.protocol.key
    return same_protocol and config.dataset.get("split") == usual_split


def make_spec(config: DictConfig) -> Spec:
    """The cell that a configuration describes.

    Raises:
        LabError: a value that cannot be meant, wherever in the configuration.
    """
    guard.check_values(config)
    groups = check_settings(config)
    plugins.check(config.get("plugins") or ())
    dataset = make_dataset(json.dumps(groups["dataset"]))
    backbone = make_backbone(json.dumps(groups["backbone"]))
    variant = build(groups["attention"], _chosen(config))
    protocol = make_protocol(groups)
    guide = make_guidance(json.dumps(groups.get("guidance")))
    label = variant_label(variant, protocol.name, dataset.name)
    return Spec(variant, backbone, protocol, dataset, label, guide)


def _chosen(config: DictConfig) -> Any:
    """The file of conf/attention that a job chose."""
    chosen = OmegaConf.select(config, "hydra.runtime.choices.attention")
    if chosen is None and HydraConfig.initialized():
        chosen = HydraConfig.get().runtime.choices.get("attention")
    return chosen


def make_protocol(config: DictConfig | Mapping[str, Any]) -> Protocol:
    """The protocol of a configuration, or of its groups as plain values, with the values that it
    has on the configuration's data set.

    Raises:
        LabError: unknown field or value; a readout or refinement outside the protocol.
    """
    for group, place in PLACES.items():
        if config.get(group) is not None:
            raise LabError(
                f"{group}: its yaml must say '# @package {place}', for it is a part of the protocol"
            )
    return build_protocol(plain_config(config["protocol"]))


@cache
def make_backbone(config: str) -> Backbone:
    """One network per configuration, however many jobs use it.

    Raises:
        LabError: a value that cannot be meant.
    """
    values = json.loads(config)
    values.pop("usual", None)  # the tag that is used unless one is typed
    try:
        return bind(backbone_loader(values.pop("_target_", None)), values, ("state_dict",))()
    except LabError as error:
        raise LabError(f"backbone: {error}") from error


@cache
def make_guidance(config: str) -> Guide | None:
    """One second network per configuration, however many jobs use it; None without a name."""
    given = json.loads(config)
    if not given:
        return None
    from sclip_lab.network.guidance import load_guidance  # timm: too slow for a finished sweep

    try:
        return bind(load_guidance, given)()
    except LabError as error:
        raise LabError(f"guidance: {error}") from error


@cache
def make_dataset(config: str) -> Dataset:
    """One data set per configuration, however many jobs use it."""
    return build_dataset(json.loads(config))


def table(df: pd.DataFrame, summary: pd.DataFrame | None = None) -> str:
    """Scores with 95 % intervals, x100, as text; with a column for every protocol field that
    differs (what differs in the attention, its label says). ``summary`` where it is known."""
    summary = results.summary(df) if summary is None else summary
    shown = summary[["attention", "backbone", "dataset", "protocol"]].astype(str)
    for name in (str(n) for n in summary if str(n).startswith("protocol.")):
        if name.endswith("._target_"):  # a readout or refinement, by its function
            last = summary[name].astype(str).str.rpartition(".")[2]
            shown[name.removesuffix("._target_")] = last.where(summary[name].notna(), "")
        elif name.count(".") == 1 or summary[name].nunique() > 1:  # parameters of one that differ
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


def _evaluate(
    specs: Sequence[Spec], store: Store, config: DictConfig, timings: Timings
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Scores of all specs, and diagnostics of each by its key."""
    _warn_of_words(specs)
    chosen = config.diagnostics
    measures = Diagnostics(chosen.measures or (), chosen.images, chosen.get("layers", False))
    observers: list[Observer] = []
    if config.pictures.images:
        observers.append(Pictures(config.pictures.images, config.pictures.points))
    if chosen.measures:
        observers.append(measures)
    with collector.as_always():
        df = evaluate(
            specs,
            store,
            observers=observers,
            shard=tuple(config.shard),
            batch_images=config.batch_images,
            batch_windows=config.batch_windows,
            trunk_cache_gb=config.trunk_cache,
            on_error=config.on_error,
            progress=config.progress,
            timings=timings,
        )
    return df, {spec.key: measures.measured(store, spec) for spec in specs}


def _warn_of_words(specs: Sequence[Spec]) -> None:
    """Class names that the embedded network has never seen, once a data set."""
    embedded = [spec for spec in specs if spec.backbone.name == known_words.EMBEDDED]
    for spec in {spec.vocabulary.key: spec for spec in embedded}.values():
        remedy = "backbone=ViT-B-16-quickgelu"
        if warning := known_words.strange_words(spec.vocabulary.queries, remedy):
            log.warning("%s: %s", spec.dataset.name, warning)


def _group(config: DictConfig, hydra: Any) -> str | None:
    """The sweep's name: its preset, and its folder, which is named by the time."""
    if config.tracking.group is not None:
        return str(config.tracking.group)
    if not hydra.mode or hydra.mode.name != "MULTIRUN":
        return None
    preset = hydra.runtime.choices.get("experiment")
    folder = Path(hydra.sweep.dir).as_posix()
    return f"{preset} {folder}" if preset else folder
