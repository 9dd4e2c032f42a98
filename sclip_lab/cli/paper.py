"""``sclip-lab paper``: evaluate what the studies lack, then write their report."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclip_lab.config import plugins, registry
from sclip_lab.core.errors import LabError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sclip_lab.evaluation.recorder import Observer, View
    from sclip_lab.evaluation.spec import Spec
    from sclip_lab.paper.sections import Drawn
    from sclip_lab.report.evidence import Evidence
    from sclip_lab.report.page import Section
    from sclip_lab.results.store.store import Store

EMBEDDED = "patchwork_vit"
BENCHMARKS = (
    "voc21,context60,coco_object,voc20,cityscapes,context59,ade20k,coco_stuff164k,coco_panoptic20"
)
MOST = 4  # processes, unless more are asked for
log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The arguments of ``sclip-lab paper``."""
    from sclip_lab.paper import studies

    made = argparse.ArgumentParser(
        prog="sclip-lab paper",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Evaluate the cells that the studies lack in as few passes as possible, "
        "and write a report.\nWithout a backbone: the embedded world. Any key of `sclip-lab "
        "evaluate`\nmay follow, such as dataset=voc21,context60 backbone=ViT-B-16-quickgelu.",
    )
    made.add_argument("words", nargs="*", metavar="STUDY | KEY=VALUE", help="default: all studies")
    questions = "".join(f"  {n:<14}{studies.load(n).question}\n" for n in studies.names())
    own = "A study of your own: plugins=[my.ideas] --config-dir=my/conf, docs/extending.md."
    made.epilog = f"studies:\n{questions}\n{own}"
    made.add_argument("--out", type=Path, default=Path("results/paper"), help="the report's folder")
    made.add_argument("--image", help="attention study: a photo's name in the data set")
    made.add_argument("--points", nargs="+", metavar="Y,X", help="attention study: pixels")
    made.add_argument("--config-dir", metavar="DIR", help="a folder of yaml files of your own")
    made.add_argument(
        "--family", choices=["claim", "page"], default="claim",
        help="adjust p over the comparisons of each claim, or over all of the page",
    )  # fmt: skip
    made.add_argument(
        "--processes", type=int, metavar="N",
        help="copies of this process that share the images, on a CPU; default: as many as cores, "
        f"at most {MOST}, for the embedded network, which is too small for threads, else 1",
    )  # fmt: skip
    return made


def run(args: argparse.Namespace) -> int:
    """0; what could not be evaluated is named in the report and on stderr.

    Raises:
        LabError: unknown study or key, or nothing could be evaluated.
    """
    from sclip_lab.core import files
    from sclip_lab.paper import sections
    from sclip_lab.report import page

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keys = [word for word in args.words if "=" in word]
    chosen = [word for word in args.words if "=" not in word]
    plugins.enter([*keys, *([f"--config-dir={args.config_dir}"] if args.config_dir else [])])
    keys = [key for key in keys if not key.lstrip("+").startswith("hydra.searchpath=")]
    if not any(key.startswith("paths.store=") for key in keys):
        keys.append(f"paths.store={args.out / 'store'}")  # not among the user's own cells
    cells = cells_of_all(chosen, keys, args.processes or cores())
    options = {"image": args.image, "points": points(args.points or [])}
    drawn = drawn_of(cells, options, args.processes)
    for line in dict.fromkeys(line for part in cells.values() for line in part.missing):
        print(f"not evaluated: {line}", file=sys.stderr)
    embedded = any(s.backbone.name == EMBEDDED for part in cells.values() for s in part.specs)
    notes = [f"sclip-lab paper {' '.join(args.words)}", *([sections.EMBEDDED] if embedded else [])]
    seeds = [s.backbone.description.get("seed") for part in cells.values() for s in part.specs]
    notes += [sections.RANDOM] if seeds and None not in seeds else []
    title = "SCLIP's paper, study by study"
    made, judged = sections.sections(drawn, args.family, embedded)
    paths = page.write(made, args.out, title, notes)
    files.write_text(args.out / "verdicts.md", sections.markdown(drawn, judged, embedded))
    print(f"{len(paths)} files, the report: {paths[0]}")
    return 0


def sections(
    requested: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    image: str | None = None,
    points: Sequence[tuple[int, int]] = (),
    processes: int | None = 1,
) -> list[Section]:
    """Studies evaluated, judged and drawn, for Python and notebooks.

    Args:
        requested: their names; all for none.
        overrides: keys of ``sclip-lab evaluate``, such as "dataset=voc21".
        image, points: of the study of attention: a photo's name, and (row, column) of its pixels.
        processes: as of ``sclip-lab paper``; None: its default.

    Returns:
        one section each, with ``rows`` (its claims), ``tables`` and ``figures``, in the order asked
        for.

    Raises:
        LabError: unknown study or key, or nothing could be evaluated.
    """
    from sclip_lab.paper import sections

    options = {"image": image, "points": points}
    drawn = drawn_of(cells_of_all(requested, overrides), options, processes)
    made, _ = sections.sections(drawn)
    return made[-len(drawn) :]


def cells_of_all(
    requested: Sequence[str], overrides: Sequence[str], processes: int = 1
) -> dict[str, Cells]:
    """The cells of several studies, whose configurations so many processes compose.

    Raises:
        LabError: unknown study or key, or not one cell can be made.
    """
    from sclip_lab.evaluation.forked import can_fork
    from sclip_lab.paper import studies

    keys = with_data(overrides)
    names = list(studies.chosen(requested))
    processes = min(processes, len(names)) if can_fork() else 1
    if processes > 1:
        # The pool ends its workers by SIGTERM. This process's handler, which they inherit, raises
        # instead, and a worker where that is swallowed would wait for work for ever.
        default = (signal.SIGTERM, signal.SIG_DFL)
        fork = multiprocessing.get_context("fork")
        with fork.Pool(processes, signal.signal, default) as pool:
            composed = pool.map(partial(jobs, overrides=keys), names, chunksize=1)
    else:
        composed = [jobs(name, keys) for name in names]
    cells = {name: cells_of(configs) for name, configs in zip(names, composed, strict=True)}
    if not any(part.specs for part in cells.values()):
        lines = [line for part in cells.values() for line in part.missing]
        # Weights that cannot be had matter more than one of many data sets.
        raise LabError(min(lines, key=lambda line: "paths.data" in line))
    return cells


def drawn_of(
    cells: Mapping[str, Cells], options: Mapping[str, Any], processes: int | None = 1
) -> list[Drawn]:
    """Studies by their cells, which are evaluated where that is missing, then drawn."""
    from sclip_lab.paper import sections, studies

    chosen = studies.chosen(list(cells))
    evidence = evaluated(cells, chosen, options, processes)
    return [
        sections.draw(name, study, evidence.get(name), cells[name].missing)
        for name, study in chosen.items()
    ]


def with_data(overrides: Sequence[str]) -> list[str]:
    """All benchmarks where neither the data set is said nor the embedded network is meant."""
    keys = dict(word.split("=", 1) for word in overrides)
    if "dataset" in keys or keys.get("backbone", EMBEDDED) == EMBEDDED:
        return list(overrides)
    return [*overrides, f"dataset={BENCHMARKS}"]


def points(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Pixels from "y,x".

    Raises:
        LabError: anything else.
    """
    try:
        return [(int(y), int(x)) for y, x in (text.split(",") for text in texts)]
    except ValueError:
        raise LabError(
            f"--points {' '.join(texts)}: row,column in pixels wanted, as 40,60"
        ) from None


@dataclass
class Cells:
    """One study's cells: configurations with their specs, and what could not be made."""

    config: DictConfig | None = None
    specs: list[Spec] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def jobs(study: str, overrides: Sequence[str]) -> list[DictConfig]:
    """The configurations of one study's sweep."""
    from sclip_lab.config.sweeper import sweep

    return sweep([f"experiment={study}", *overrides])


def cells_of(configs: Sequence[DictConfig]) -> Cells:
    """The cells of one study; those that cannot be made are named, each reason once."""
    from sclip_lab.run.job import make_spec

    cells = Cells()
    reasons: dict[str, None] = {}
    absent: set[str] = set()
    for config in configs:
        part = f"{config.dataset.name}" if _absent(config, absent) else None
        if part is not None:
            continue
        try:
            cells.specs.append(make_spec(config))
            cells.config = cells.config or config
        except LabError as error:
            absent.add(str(config.dataset.name))
            reasons[f"{error}{how_to_get(str(config.dataset.name), str(error))}"] = None
    cells.missing = list(reasons)
    return cells


def _absent(config: DictConfig, absent: set[str]) -> bool:
    return str(config.dataset.name) in absent


def how_to_get(dataset: str, error: str) -> str:
    """What conf/dataset says about obtaining it, if the data are what is missing."""
    file = registry.conf_dir() / "dataset" / f"{dataset}.yaml"
    if (dataset not in error and "paths.data" not in error) or not file.is_file():
        return ""
    lines = file.read_text(encoding="utf-8").splitlines()
    header = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    _, obtain, how = header.partition("Obtain: ")
    return f" ({obtain}{how})" if obtain else ""


def evaluated(
    cells: Mapping[str, Cells],
    chosen_studies: Mapping[str, Any],
    options: Mapping[str, Any],
    processes: int | None = 1,
) -> dict[str, Evidence]:
    """Evaluate the union of all cells, then the photos that studies choose by their results."""
    from sclip_lab.core.timings import Timings
    from sclip_lab.evaluation.forked import evaluate_forked
    from sclip_lab.evaluation.loop import evaluate
    from sclip_lab.evaluation.observers import Diagnostics, Pictures
    from sclip_lab.results.store.store import Store

    configs = {name: part.config for name, part in cells.items() if part.config is not None}
    first = next(iter(configs.values()))
    store, timings = Store(first.paths.store), Timings()
    settings = {
        "batch_images": first.batch_images,
        "batch_windows": first.batch_windows,
        "trunk_cache_gb": first.trunk_cache,
    }
    settings |= {"progress": first.progress, "timings": timings}
    observers: list[Observer] = []
    shards: dict[tuple[int, ...], list[Spec]] = {}
    for name, config in configs.items():
        specs = cells[name].specs
        keys = {spec.key for spec in specs}
        if config.pictures.images:
            pictures = Pictures(config.pictures.images, config.pictures.points)
            observers.append(Only(pictures, keys))
        if config.diagnostics.measures:
            chosen = config.diagnostics
            measured = Diagnostics(list(chosen.measures), chosen.images, chosen.layers)
            observers.append(Only(measured, keys))
        shards.setdefault(tuple(config.shard), []).extend(specs)
    copies = _copies(cells, processes)
    for shard, specs in shards.items():
        evaluate_forked(specs, store, copies, observers=observers, shard=shard, **settings)  # type: ignore[arg-type]

    def read_one(name: str) -> Evidence:
        return read(store, cells[name].specs, options, configs[name].diagnostics)

    evidence = {name: read_one(name) for name in configs}
    for name, part in evidence.items():
        for _, setting in chosen_studies[name].settings(part):
            photos = chosen_studies[name].photos(setting)
            if photos:
                specs = list(setting.specs.values())
                shard = tuple(configs[name].shard)
                evaluate(specs, store, observers=[Chosen(photos)], shard=shard, **settings)  # type: ignore[arg-type]
                evidence[name] = read_one(name)
    if timings.images or copies == 1:
        log.info("%s", timings.report())
    return evidence


def _copies(cells: Mapping[str, Cells], asked: int | None) -> int:
    """How many processes evaluate.

    Raises:
        LabError: none, or several of which not all are on a CPU.
    """
    backbones = [spec.backbone for part in cells.values() for spec in part.specs]
    on_cpu = all(backbone.device.type == "cpu" for backbone in backbones)
    if asked is not None:
        if asked < 1 or (asked > 1 and not on_cpu):
            raise LabError(f"--processes {asked}: 1 or more on a CPU, 1 on a GPU")
        return asked
    small = any(backbone.name == EMBEDDED for backbone in backbones)
    return cores() if on_cpu and small else 1


def cores() -> int:
    """Processor cores of this process, as torch counts them, at most `MOST`."""
    import torch

    return min(torch.get_num_threads(), MOST)


def read(
    store: Store, specs: Sequence[Spec], options: Mapping[str, Any], diagnostics: DictConfig
) -> Evidence:
    """What a store has of these specs, which were just evaluated; of diagnostics what was asked
    for."""
    import pandas as pd

    from sclip_lab import results
    from sclip_lab.report.evidence import Evidence
    from sclip_lab.results.store import picture_files

    asked = {spec.key: spec for spec in reversed(specs)}  # of equal cells the first one's names
    keys = list(dict.fromkeys(spec.key for spec in specs))
    names = {key: spec.shown_names for key, spec in asked.items()}
    df = results.load(store.root, keys, partial=True, names=names)
    counts = {spec.dataset.name: len(spec.dataset) for spec in specs}
    return Evidence(
        df=df,
        measured=results.diagnostics(store.root, keys) if diagnostics.measures else pd.DataFrame(),
        layers=results.diagnostics(store.root, keys, layers=True)
        if diagnostics.measures and diagnostics.layers
        else pd.DataFrame(),
        pictures=picture_files.load(store.root, keys),
        specs={key[:12]: spec for key, spec in asked.items()},
        options=options,
        whole={name: whole_size(name, count) for name, count in counts.items()},
    )


def whole_size(dataset: str, count: int) -> int:
    """How many photos a data set has where ``dataset.limit`` and the like take ``count`` of them:
    as its yaml says."""
    if dataset not in registry.names("dataset"):
        return count
    usual = registry.load_group("dataset", dataset)
    expected = usual.get("expected") or []
    sizes = expected if isinstance(expected, list) else [expected]
    sizes = [usual["limit"]] if usual.get("limit") else sizes
    return count if count in sizes else max([count, *sizes])


class Chosen:
    """An observer that keeps the predictions of photos with these names."""

    def __init__(self, names: Sequence[str]) -> None:
        from sclip_lab.evaluation.observers import Pictures

        self.names = set(names)
        self.pictures = Pictures(points=0)

    def pending(self, store: Store, spec: Spec) -> set[str]:
        from sclip_lab.results.store.picture_files import has_prediction

        return {name for name in self.names if not has_prediction(store.root, spec.key, name)}

    def observe(self, store: Store, view: View) -> None:
        self.pictures.observe(store, view)

    def flush(self, store: Store) -> None:
        """Every picture was written when it was taken."""


class Only:
    """An observer of some cells."""

    def __init__(self, observer: Observer, keys: set[str]) -> None:
        self.observer = observer
        self.keys = keys

    def pending(self, store: Store, spec: Spec) -> set[str]:
        return self.observer.pending(store, spec) if spec.key in self.keys else set()

    def observe(self, store: Store, view: View) -> None:
        self.observer.observe(store, view)

    def flush(self, store: Store) -> None:
        self.observer.flush(store)
