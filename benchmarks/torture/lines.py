"""Command lines: a sound one of each command, with words changed, added, left out."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import sclip_lab as lab
from benchmarks.torture.confine import nameable
from benchmarks.torture.kills import work
from benchmarks.torture.outcomes import Outcomes
from sclip_lab.cli import main, paper, report
from sclip_lab.config import folders
from sclip_lab.core import call
from sclip_lab.core.errors import LabError
from sclip_lab.run import ending, job

WORDS = nameable([
    "", " ", "nan", "inf", "-inf", "-1", "0", "1e400", "2.5", "9" * 30, "9" * 5000, "0x10",
    "x" * 300,
    "x" * 5000, "\ud800", "caf\udce9", "a\nb", "<script>", "$\\frac", "../..", "~", "*", "'", '"',
    "{", "[", "${oc.env:HOME}", "--", "-", "-x", "--nothing", "a=b", "=", ",", ";", "null",
    "\u202e",
    "/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem", "/", ".", "nothing.png", "csa",
    "vanilla",
    "PIPE", "CIRCLE", "FOLDER", "EMPTY", "TEXT", "DAMAGED", "PHOTO", "MASK", "DANGLING", "STORE",
    "LOCKED",
])  # fmt: skip
NUMBERS = {"--seed", "--images", "--steps", "--lr", "--patches"}
NO_NUMBERS = {"nan", "inf", "-inf", "-1", "1e400", "9" * 30, "9" * 5000, "", "x" * 300}
SMALL = ["dataset.limit=1", "dataset.height=64", "dataset.width=96", "progress=false",
         "tracking=disabled", "pictures.images=0", "diagnostics=none"]  # fmt: skip


def world(folder: Path) -> dict[str, str]:
    """Files of all sorts, by the words that stand for them."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    made = {name: folder / name.lower() for name in (
        "PIPE", "CIRCLE", "FOLDER", "EMPTY", "TEXT", "DAMAGED", "DANGLING", "STORE",
        "LOCKED")}  # fmt: skip
    made |= {"PHOTO": folder / "photo.png", "MASK": folder / "mask.png"}
    Image.fromarray(noise).save(made["PHOTO"])
    Image.fromarray(noise[..., 0] % 3).save(made["MASK"])
    os.mkfifo(made["PIPE"])
    made["CIRCLE"].symlink_to(made["CIRCLE"])
    made["DANGLING"].symlink_to(folder / "gone")
    made["FOLDER"].mkdir()
    made["EMPTY"].touch()
    made["TEXT"].write_text("some text\n")
    made["DAMAGED"].write_bytes(made["PHOTO"].read_bytes()[:300])
    made["LOCKED"].mkdir(mode=0o500)
    work(made["STORE"])
    return {name: str(path) for name, path in made.items()}


def run(line: list[str]) -> tuple[int | str | None, str, str]:
    """A command in this process: its exit code, what it printed, what it complained of."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    before, variables = (root.handlers[:], root.level, sys.argv), dict(os.environ)
    allowed, added = set(call._allowed), list(folders._added)
    code: int | str | None
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main.main(line)
    except SystemExit as stop:
        code = stop.code
    finally:
        GlobalHydra.instance().clear()
        root.handlers[:], root.level, sys.argv = before
        os.environ.clear()
        os.environ.update(variables)
        call._allowed.clear()
        call._allowed.update(allowed)
        folders._added[:] = added
    return code, out.getvalue(), err.getvalue()


def complaint(line: list[str], named: Callable[[str], bool] | None, may_pass: bool) -> None:
    """Run a line; what is wrong with how it ends is raised as `Outcomes.case` counts it."""
    code, _, err = run(line)
    last = [text for text in err.splitlines() if text.strip()]
    if "Traceback (most recent call last)" in err or f"error: {ending.UNEXPECTED}" in err:
        raise RuntimeError(last[-1] if last else "")
    assert code in (0, 1, 2, None), f"status {code}"
    if not code:
        assert may_pass, "passed"
        return
    errors = [text for text in last if "error: " in text or "not evaluated: " in text]
    assert errors or "usage" in err or code == 1, f"status {code} without an error"
    text = " ".join(errors)
    raise LabError(text if named is None or named(text) else f"UNNAMED {text}")


def commands(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Every command but evaluate."""
    places = world(folder)
    out = str(folder / "out.png")
    sound = [
        ["segment", "PHOTO", "sky", "grass", "--out", out],
        ["segment", "PHOTO", "sky,air", "--attention", "vanilla", "--protocol", "sclip",
        "--seed", "1",
         "--out", out],
        ["explore", "PHOTO", "--patches", "6", "--out", out, "--names", "sky;grass",
        "--attention", "csa"],
        ["explore", "PHOTO", "--mask", "MASK", "--patches", "6", "--out", out],
        ["learn-projection", "--images", "1", "--steps", "1", "--lr", "0.1", "--out", out],
        ["report", "STORE", "--out", str(folder / "report"), "--images", "1"],
        ["report", "STORE", "--where", "attention=variant a", "--baseline", "variant a", "--out",
         str(folder / "report")],
        ["paper", "covariance", *SMALL, f"paths.store={folder / 'paper'}", "--out",
        str(folder / "p")],
        ["data", "list"], ["data", "verify", "voc21"], ["data", "coco_panoptic20", "--from",
        "TEXT"],
        ["data", "prepare", "voc21", "--from", "FOLDER", "--to", str(folder / "to")],
        ["store", "list", "--store", "STORE"], ["store", "verify", "--store", "STORE"],
        ["store", "repair", "--store", "STORE"], ["store", "gc", "--store", "STORE", "--dry-run"],
        ["store", "export", "--store", "STORE", "--to", str(folder / "export")],
        ["store", "export", "0", "--store", "STORE", "--to", str(folder / "export")],
    ]  # fmt: skip
    with cheap(folder):
        for _ in range(cases):
            line, culprit, option = changed(generator.choice(sound), generator, known_options())
            line = [places.get(word, word) for word in line]
            _case(outcomes, line, places.get(culprit, culprit), option)


def evaluations(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """``sclip-lab evaluate``, Hydra's own options and grammar included."""
    places = world(folder)
    start = ["evaluate", *SMALL, f"paths.store={folder / 'store'}",
    f"hydra.run.dir={folder / 'run'}",
             f"hydra.sweep.dir={folder / 'sweep'}"]  # fmt: skip
    keys = [
        "attention", "protocol", "dataset", "backbone", "readout", "refinement", "guidance",
        "experiment",
        "tracking", "diagnostics", "paths", "hydra/launcher", "hydra/sweeper", "seed", "device",
        "checkpoint", "pretrained", "precision", "shard", "plugins", "on_error", "batch_images",
        "attention.temperature", "attention.layers", "+attention.new", "~attention", "~seed",
        "++seed",
        "protocol.logit_scale", "protocol.templates", "protocol.crop_size", "dataset.limit",
        "paths.store",
        "hydra.run.dir", "hydra.sweep.dir", "hydra.job.name", "hydra.searchpath", "tracking.mode",
        "attention@x", "attention/prior", "attention/mix", "nothing", "", "hydra.launcher.shards",
        "hydra.mode", "diagnostics.measures", "backbone.architecture", "dataset.vocabulary",
        "dataset._target_",
    ]  # fmt: skip
    flags = ["-m", "--cfg", "--config-dir", "--config-path", "--config-name", "--info", "--resolve",
             "--package", "-h", "--hydra-help", "--run", "--shell-completion",
             "--nothing"]  # fmt: skip
    with cheap(folder):
        for _ in range(cases):
            word = generator.choice(WORDS)
            key = generator.choice(keys)
            added = generator.choice([
                [f"{key}={places.get(word, word)}"], [f"{key}={places.get(word, word)}"],
                [f"{key}='{word}'"], ["-m", f"{key}={places.get(word, word)},1"],
                [generator.choice(flags), word], [word],
            ])  # fmt: skip
            _case(outcomes, [*start, *added], "", "")


def changed(
    sound: list[str], generator: random.Random, options: dict[str, list[str]]
) -> tuple[list[str], str, str]:
    """A line with one word replaced or put in; the word, and the option it stands behind."""
    line, word = list(sound), generator.choice(WORDS)
    place = generator.randrange(1, len(line) + 1)
    how = generator.randrange(4)
    if how == 0:
        line.insert(place, word)
        return line, word, ""
    if how == 1:
        option = generator.choice(options[line[0]])
        return [*line, option, word], word, option
    if how == 2 and len(line) > 2 and line[0] != "paper":
        del line[min(place, len(line) - 1)]
        return line, "", ""
    place = min(place, len(line) - 1)
    option = line[place - 1] if line[place - 1].startswith("--") else ""
    line[place] = word
    return line, word, option


@cache
def known_options() -> dict[str, list[str]]:
    """Options of each command."""

    def of(parser: argparse.ArgumentParser) -> Iterator[str]:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    yield from of(below)
            elif "--help" not in action.option_strings:
                yield from action.option_strings

    made = main._parser()._actions
    (below,) = (a for a in made if isinstance(a, argparse._SubParsersAction))
    found = {name: sorted(set(of(parser))) for name, parser in below.choices.items()}
    return found | {"paper": list(of(paper.parser())), "report": list(of(report.parser()))}


@contextlib.contextmanager
def cheap(folder: Path) -> Iterator[None]:
    """The embedded network is loaded once for all lines; lines work in a folder of their own."""
    usual = lab.load_backbone
    sound = usual("patchwork_vit")

    def load_backbone(name: object = None, *args: object, **options: object) -> object:
        plain = name == "patchwork_vit" and not any(args)
        if plain and not any(v for k, v in options.items() if v):
            return sound
        return usual(name, *args, **options)  # type: ignore[arg-type]

    here = Path.cwd()
    os.chdir(folder)
    try:
        with mock.patch.object(lab, "load_backbone", load_backbone):
            yield
    finally:
        os.chdir(here)
        job.make_dataset.cache_clear()


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """A folder of yaml files as the environment names it."""
    with mock.patch.dict(os.environ, {folders.VARIABLE: str(folder)}):
        yield


def _case(outcomes: Outcomes, line: list[str], culprit: str, option: str) -> None:
    shown = [ascii(culprit)[1:-1][:20].strip(), option.lstrip("-")] if culprit.strip() else []

    def named(text: str) -> bool:
        flat = ascii(text)[1:-1]
        return not shown or any(s and (s in flat or s.replace("\\", "\\\\") in flat) for s in shown)

    may_pass = not (option in NUMBERS and culprit in NO_NUMBERS)
    what = f"command line {[word[:60] for word in line]}"
    outcomes.case(what, "", lambda: complaint(line, named, may_pass))
