"""Command lines: a sound one of each command with words changed, added or left out."""

from __future__ import annotations

import argparse
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sclip_lab import results
from sclip_lab.cli.main import main, parser_of
from sclip_lab.core.errors import LabError
from tests.hostile.outcome import ends_well, examples
from tests.hostile.test_hostile_values import SMALL, STARTS, leaves, sound_configuration
from tests.synthetic_store import write_store

WORDS = [
    "", " ", "nan", "inf", "-inf", "-1", "0", "1e400", "2.5", "9" * 30, "9" * 5000, "0x10",
    "x" * 300, "x" * 5000, "\ud800", "caf\udce9", "a\nb", "<script>", "$\\frac", "..", "*", "'",
    '"', "{", "[", "${oc.env:HOME}", "--", "-", "-x", "--nothing", "a=b", "=", ",", ";", "null",
    "\u202e", ".", "nothing.png", "csa", "vanilla", "PIPE", "CIRCLE", "FOLDER", "EMPTY", "TEXT",
    "DAMAGED", "PHOTO", "MASK", "DANGLING", "STORE", "LOCKED",
]  # fmt: skip
TYPED = [
    "nan", "inf", "-inf", "-1", "0", "1", "2", "5", "0.5", "-0.5", "1e400", "1e9", "9" * 25,
    "null", "true", "text", "a b", "''", "[]", "[nan]", "[0]", "[-1]", "[1,2,3]", "[text]",
    "{}", "{a:1}", "{a:nan}", "{a:{b:nan}}", "[[1]]", "[{a:nan}]", "???", "${nothing}",
    "${seed}", "\\${oc.env:HOME}", "${oc.env:HOME}", "..", "x" * 300, "'a\nb'",
    "{_target_:os.system}", "{_target_:5}",
]  # fmt: skip
KEYS = [
    "attention", "protocol", "dataset", "backbone", "readout", "refinement", "guidance",
    "experiment", "tracking", "diagnostics", "paths", "hydra/launcher", "hydra/sweeper", "seed",
    "device", "checkpoint", "pretrained", "precision", "shard", "plugins", "on_error",
    "batch_images", "attention.temperature", "attention.layers", "+attention.new", "~attention",
    "~seed", "++seed", "protocol.logit_scale", "protocol.templates", "protocol.crop_size",
    "dataset.images", "paths.store", "hydra.run.dir", "hydra.sweep.dir", "hydra.job.name",
    "hydra.searchpath", "tracking.mode", "attention@x", "attention/prior", "attention/mix",
    "nothing", "", "hydra.launcher.shards", "hydra.mode", "diagnostics.measures",
    "backbone.architecture", "dataset.vocabulary", "dataset._target_",
]  # fmt: skip
FLAGS = ["-m", "--cfg", "--config-dir", "--config-path", "--config-name", "--info", "--resolve",
         "--package", "-h", "--hydra-help", "--run", "--shell-completion", "--nothing"]  # fmt: skip
SOUND = [
    ["segment", "PHOTO", "sky", "grass", "--out", "out.png"],
    ["segment", "PHOTO", "sky,air", "--attention", "vanilla", "--protocol", "sclip", "--seed", "1"],
    ["explore", "PHOTO", "--patches", "6", "--names", "sky;grass", "--attention", "csa"],
    ["explore", "PHOTO", "--mask", "MASK", "--patches", "6", "--out", "out.html"],
    ["learn-projection", "--images", "1", "--steps", "1", "--lr", "0.1", "--out", "out"],
    ["report", "STORE", "--out", "report", "--images", "1"],
    ["report", "STORE", "--where", "attention=csa", "--baseline", "vanilla", "--out", "report"],
    ["paper", "covariance", *SMALL, "paths.store=paper", "--out", "p"],
    ["data", "list"], ["data", "verify", "voc21"], ["data", "coco_panoptic20", "--from", "TEXT"],
    ["data", "prepare", "voc21", "--from", "FOLDER", "--to", "to"],
    ["store", "list", "--store", "STORE"], ["store", "verify", "--store", "STORE"],
    ["store", "repair", "--store", "STORE"], ["store", "gc", "--store", "STORE", "--dry-run"],
    ["store", "export", "--store", "STORE", "--to", "export"],
    ["store", "export", "0", "--store", "STORE", "--to", "export"],
]  # fmt: skip
PLACES = ["paths.store=store", "hydra.run.dir=run", "hydra.sweep.dir=sweep"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of all sorts, by the words that stand for them."""
    folder = tmp_path_factory.mktemp("world")
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    names = ("PIPE", "CIRCLE", "FOLDER", "EMPTY", "TEXT", "DAMAGED", "DANGLING", "STORE", "LOCKED")
    paths = {name: folder / name.lower() for name in names}
    paths |= {"PHOTO": folder / "photo.png", "MASK": folder / "mask.png"}
    Image.fromarray(noise).save(paths["PHOTO"])
    Image.fromarray(noise[..., 0] % 3).save(paths["MASK"])
    os.mkfifo(paths["PIPE"])
    paths["CIRCLE"].symlink_to(paths["CIRCLE"])
    paths["DANGLING"].symlink_to(folder / "gone")
    paths["FOLDER"].mkdir()
    paths["EMPTY"].touch()
    paths["TEXT"].write_text("some text\n")
    paths["DAMAGED"].write_bytes(paths["PHOTO"].read_bytes()[:300])
    paths["LOCKED"].mkdir(mode=0o500)
    write_store(paths["STORE"], 2)
    return {name: str(path) for name, path in paths.items()}


def status_of(line: list[str]) -> tuple[int | str | None, str]:
    """A command in this process: its exit code, and what it printed on stderr."""
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level, argv, variables = root.handlers[:], root.level, sys.argv, dict(os.environ)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            return main(line), err.getvalue()
    except SystemExit as stop:
        return stop.code, err.getvalue()
    finally:
        GlobalHydra.instance().clear()
        root.handlers[:], root.level, sys.argv = handlers, level, argv
        os.environ.clear()
        os.environ.update(variables)


def run(line: list[str]) -> None:
    """Raise the command's complaint as a LabError; a traceback or an odd status is a fault."""
    status, err = status_of(line)
    assert "Traceback (most recent call last)" not in err, err[-400:]
    assert status in (0, 1, 2, None)
    if not status:
        return
    lines = [text for text in err.splitlines() if "error: " in text or "not evaluated: " in text]
    assert lines or "usage" in err or status == 1, f"status {status} without an error"
    raise LabError(" ".join(lines))


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from options_of(below)
        elif "--help" not in action.option_strings:
            yield from action.option_strings


def options(command: str) -> list[str]:
    return sorted(set(options_of(parser_of(command))))


OPTIONS = {line[0]: options(line[0]) for line in SOUND}


@given(data=st.data(), sound=st.sampled_from(SOUND), word=st.sampled_from(WORDS))
@examples(6)
def test_every_command(
    world: dict[str, str], data: st.DataObject, sound: list[str], word: str
) -> None:
    line = list(sound)
    how = data.draw(st.sampled_from(["put in", "replaced", "left out", "option"]))
    if how == "option" and OPTIONS[line[0]]:
        line += [data.draw(st.sampled_from(OPTIONS[line[0]])), word]
    elif how == "put in" or len(line) < 3:
        line.insert(data.draw(st.integers(1, len(line))), word)
    elif how == "left out" and line[0] != "paper":
        del line[data.draw(st.integers(1, len(line) - 1))]
    else:
        line[data.draw(st.integers(1, len(line) - 1))] = word
    ends_well(lambda: run([world.get(part, part) for part in line]))


@given(data=st.data(), word=st.sampled_from(WORDS), key=st.sampled_from(KEYS))
@examples(3)
def test_evaluate_and_hydras_grammar(
    world: dict[str, str], data: st.DataObject, word: str, key: str
) -> None:
    value = f"{key}={world.get(word, word)}"
    more = data.draw(
        st.sampled_from([[value], [f"{key}='{word}'"], ["-m", f"{value},1"], ["flag"], [word]])
    )
    if more == ["flag"]:
        more = [data.draw(st.sampled_from(FLAGS)), word]
    ends_well(lambda: run(["evaluate", *SMALL, *PLACES, *more]))


@pytest.mark.slow
@given(data=st.data(), which=st.integers(0, len(STARTS) - 1), value=st.sampled_from(TYPED))
@examples(3)
def test_every_key_as_one_types_it(data: st.DataObject, which: int, value: str) -> None:
    key = data.draw(st.sampled_from(list(leaves_of(which))))
    flags = data.draw(st.sampled_from([[], [], [], ["-m"]]))

    def evaluate() -> None:
        run(["evaluate", *flags, *SMALL, *PLACES, *STARTS[which], f"{key}={value}"])
        if Path("store/specs").is_dir():
            summary = results.summary(results.load("store", partial=True))
            assert summary["miou"].between(0, 1).all()
            shutil.rmtree("store")

    ends_well(evaluate, key, key.rpartition(".")[2], value.strip("'[]{}\\$")[:20])


def leaves_of(which: int) -> Iterator[str]:
    from omegaconf import OmegaConf

    return leaves(OmegaConf.to_container(sound_configuration(which)))
