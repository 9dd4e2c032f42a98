"""The paper's studies: compose their cells, evaluate what is missing, read what the store has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig

from sclip_lab import results
from sclip_lab.config import registry
from sclip_lab.config.sweeper import sweep
from sclip_lab.core.errors import LabError
from sclip_lab.core.timings import Timings
from sclip_lab.data.base import whole_counts
from sclip_lab.evaluation.forked import evaluate_forked
from sclip_lab.evaluation.observers import Diagnostics, Pictures
from sclip_lab.evaluation.spec import Spec
from sclip_lab.paper import sections as paper_sections
from sclip_lab.paper import studies
from sclip_lab.paper.sections import Drawn
from sclip_lab.report.evidence import Evidence
from sclip_lab.report.page import Section
from sclip_lab.results.store import picture_files
from sclip_lab.results.store.store import Store
from sclip_lab.run.job import evaluation_settings, failures, make_spec, observers_of
from sclip_lab.run.known_words import EMBEDDED

BENCHMARKS = (
    "voc21,context60,coco_object,voc20,cityscapes,context59,ade20k,coco_stuff164k,coco_panoptic20"
)
MOST_PROCESSES = 4  # unless the user asks for more
log = logging.getLogger(__name__)


@dataclass
class Cells:
    """One study's cells, and the configuration of the first.

    ``missing`` says why other cells could not be made, one line for each reason.
    """

    config: DictConfig | None = None
    specs: list[Spec] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def sections(
    requested: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    image: str | None = None,
    points: Sequence[tuple[int, int]] = (),
    processes: int | None = 1,
) -> list[Section]:
    """Evaluate, judge and draw studies, for Python and notebooks.

    Args:
        requested: names of studies; if empty, all.
        overrides: keys of ``sclip-lab evaluate``, such as "dataset=voc21".
        image, points: for the study ``attention``: a photo's name, and (row, column) of its pixels.
        processes: see `draw`.

    Returns:
        one section for each study, in the order of ``requested``, with ``rows`` (its claims),
        ``tables`` and ``figures``.

    Raises:
        LabError: unknown study or key, or nothing could be evaluated.
    """
    options = {"image": image, "points": points}
    parts = draw(compose(requested, overrides), options, processes)
    page, _ = paper_sections.sections(parts)
    return page[-len(parts) :]


def compose(requested: Sequence[str], overrides: Sequence[str]) -> dict[str, Cells]:
    """The cells of studies by the studies' names.

    Raises:
        LabError: unknown study or key, or no cell at all can be made.
    """
    failures.clear()  # a notebook may have mended their causes since
    keys = with_data(overrides)
    cells = {
        name: _cells(sweep([f"experiment={name}", *keys])) for name in studies.chosen(requested)
    }
    if not any(part.specs for part in cells.values()):
        reasons = [line for part in cells.values() for line in part.missing]
        # Missing weights matter more than one missing data set of many.
        raise LabError(min(reasons, key=lambda line: "paths.data" in line))
    return cells


def with_data(overrides: Sequence[str]) -> list[str]:
    """The overrides; all benchmarks are added if they name a network, other than the embedded one,
    but no data set."""
    keys = dict(word.split("=", 1) for word in overrides)
    if "dataset" in keys or keys.get("backbone", EMBEDDED) == EMBEDDED:
        return list(overrides)
    return [*overrides, f"dataset={BENCHMARKS}"]


def _cells(configs: Sequence[DictConfig]) -> Cells:
    """The cells of one study. A data set that failed once is not tried again."""
    cells = Cells()
    reasons: dict[str, None] = {}
    failed: set[str] = set()
    for config in configs:
        dataset = str(config.dataset.name)
        if dataset in failed:
            continue
        try:
            cells.specs.append(make_spec(config))
            cells.config = cells.config or config
        except LabError as error:
            failed.add(dataset)
            reasons[f"{error}{_how_to_get(dataset, str(error))}"] = None
    cells.missing = list(reasons)
    return cells


def _how_to_get(dataset: str, error: str) -> str:
    """What the data set's yaml says about obtaining it, if the data are what is missing."""
    file = registry.conf_dir() / "dataset" / f"{dataset}.yaml"
    if (dataset not in error and "paths.data" not in error) or not file.is_file():
        return ""
    lines = file.read_text(encoding="utf-8").splitlines()
    header = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    _, obtain, how = header.partition("Obtain: ")
    return f" ({obtain}{how})" if obtain else ""


def draw(
    cells: Mapping[str, Cells], options: Mapping[str, Any], processes: int | None = 1
) -> list[Drawn]:
    """Evaluate what is missing of studies, and draw them.

    Args:
        options: for the study ``attention``: ``image`` and ``points``, see `sections`.
        processes: copies of this process that share the images; None: one for each core up to
            `MOST_PROCESSES` if the embedded network runs on a CPU, else one.

    Raises:
        LabError: ``processes`` below 1, or several of them on a GPU.
    """
    evidence = _evaluate(cells, options, processes)
    return [
        paper_sections.draw(name, studies.load(name), evidence.get(name), part.missing)
        for name, part in cells.items()
    ]


def _evaluate(
    cells: Mapping[str, Cells], options: Mapping[str, Any], processes: int | None
) -> dict[str, Evidence]:
    """Evaluate all cells together, then take the photos that studies choose by their results."""
    configs = {name: part.config for name, part in cells.items() if part.config is not None}
    first = next(iter(configs.values()))
    store, timings = Store(first.paths.store), Timings()
    settings = {**evaluation_settings(first), "timings": timings}
    observers: list[Pictures | Diagnostics] = []
    shards: dict[tuple[int, int], list[Spec]] = {}
    for name, config in configs.items():
        keys = {spec.key for spec in cells[name].specs}
        observers += observers_of(config, keys)
        shards.setdefault(_shard(config), []).extend(cells[name].specs)
    copies = _count_processes(cells, processes)
    for shard, specs in shards.items():
        evaluate_forked(specs, store, copies, observers=observers, shard=shard, **settings)

    def read(name: str) -> Evidence:
        return _evidence(store, cells[name].specs, options, configs[name].diagnostics)

    evidence = {name: read(name) for name in configs}
    for name, config in configs.items():
        study = studies.load(name)
        for _, setting in study.settings(evidence[name]):
            if photos := study.photos(setting):
                specs, chosen = list(setting.specs.values()), [Pictures(points=0, names=photos)]
                shard = _shard(config)
                evaluate_forked(specs, store, 1, observers=chosen, shard=shard, **settings)
                evidence[name] = read(name)
    if timings.images or copies == 1:
        log.info("%s", timings.report())
    return evidence


def _shard(config: DictConfig) -> tuple[int, int]:
    index, count = config.shard
    return index, count


def _count_processes(cells: Mapping[str, Cells], requested: int | None) -> int:
    """The number of processes that ``processes`` of `draw` means."""
    backbones = [spec.backbone for part in cells.values() for spec in part.specs]
    on_cpu = all(backbone.device.type == "cpu" for backbone in backbones)
    if requested is not None:
        if requested < 1 or (requested > 1 and not on_cpu):
            raise LabError(f"--processes {requested}: must be 1 or more on a CPU, and 1 on a GPU")
        return requested
    embedded = any(backbone.name == EMBEDDED for backbone in backbones)
    return min(torch.get_num_threads(), MOST_PROCESSES) if on_cpu and embedded else 1


def _evidence(
    store: Store, specs: Sequence[Spec], options: Mapping[str, Any], diagnostics: DictConfig
) -> Evidence:
    """What a store has of specs, which were just evaluated; diagnostics only if requested."""
    by_key = {spec.key: spec for spec in reversed(specs)}  # equal cells get the names of the first
    keys = list(dict.fromkeys(spec.key for spec in specs))
    names = {key: spec.shown_names for key, spec in by_key.items()}
    counts = {spec.dataset.name: len(spec.dataset) for spec in specs}
    measured = layers = pd.DataFrame()
    if diagnostics.measures:
        measured = results.diagnostics(store.root, keys)
        if diagnostics.layers:
            layers = results.diagnostics(store.root, keys, layers=True)
    return Evidence(
        df=results.load(store.root, keys, partial=True, names=names),
        measured=measured,
        layers=layers,
        pictures=picture_files.load(store.root, keys),
        specs={key[:12]: spec for key, spec in by_key.items()},
        options=options,
        whole={name: whole_size(name, count) for name, count in counts.items()},
    )


def whole_size(dataset: str, count: int) -> int:
    """How many photos a data set has according to its yaml, if ``count`` of them are used.

    Options such as ``dataset.limit`` use fewer photos than there are.
    """
    if dataset not in registry.names("dataset"):
        return count
    usual = registry.load_group("dataset", dataset)
    sizes = [usual["limit"]] if usual.get("limit") else whole_counts(usual.get("expected"))
    return count if count in sizes else max([count, *sizes])
