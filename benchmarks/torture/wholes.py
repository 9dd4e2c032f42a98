"""Whole command lines over whole files: every key of the configuration as one types it, stores that
somebody sealed with other content, sweeps, projections.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from benchmarks.torture import lines
from benchmarks.torture.configs import STARTS, leaves
from benchmarks.torture.confine import nameable
from benchmarks.torture.kills import CELLS, IMAGES, work
from benchmarks.torture.outcomes import Outcomes
from sclip_lab import results
from sclip_lab.config.composing import sweep
from sclip_lab.core import sealed
from sclip_lab.core.errors import LabError
from sclip_lab.results.store import chunks
from sclip_lab.results.store.store import Store

TYPED = nameable([
    "nan", "inf", "-inf", "-1", "0", "1", "2", "5", "0.5", "-0.5", "1e400", "1e9", "9" * 25,
    "null", "true", "text", "a b", "''", "[]", "[nan]", "[0]", "[-1]", "[1,2,3]", "[text]",
    "{}", "{a:1}", "{a:nan}", "{a:{b:nan}}", "[[1]]", "[{a:nan}]", "???", "${nothing}",
    "${seed}", "\\${oc.env:HOME}", "${oc.env:HOME}", "/", "..", "/dev/zero", "x" * 300,
    "'a\nb'", "{_target_:os.system}", "{_target_:5}",
])  # fmt: skip


def overrides(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """``evaluate key=value`` for every key that a configuration has, and computed where it may."""
    usual = [
        *lines.SMALL, f"paths.store={folder / 'store'}", f"hydra.run.dir={folder / 'run'}",
        f"hydra.sweep.dir={folder / 'sweep'}",
    ]  # fmt: skip
    keys = [[*leaves(sweep([*start, *lines.SMALL])[0])] for start in STARTS]
    with lines.cheap(folder):
        for number in range(cases):
            which = number % len(STARTS)
            key, value = generator.choice(keys[which]), generator.choice(TYPED)
            flags = ["-m"] if generator.random() < 0.1 else []
            line = ["evaluate", *flags, *usual, *STARTS[which], f"{key}={value}"]
            said = (key, key.rpartition(".")[2], value.strip("'[]{}\\$")[:20])

            def named(text: str, said: tuple[str, ...] = said) -> bool:
                return any(word and word in text for word in said)

            run = _checked(line, named, folder / "store")
            outcomes.case(f"{' '.join(STARTS[which])} {key}={value}"[:140], "", run)


def _checked(line: list[str], named: Callable[[str], bool], store: Path) -> Callable[[], None]:
    def run() -> None:
        lines.complaint(line, named, may_pass=True)
        if (store / "specs").is_dir():
            summary = results.summary(results.load(store, partial=True))
            assert summary["miou"].between(0, 1).all(), "a score that is no share"
            shutil.rmtree(store)

    return run


def sealed_stores(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """A file of one cell written anew with other content and a right seal: the cell beside keeps
    its numbers, every command ends well, and nothing odd comes out as a number."""
    whole = folder / "whole"
    work(whole)
    other = results.load(whole, [CELLS[1].key])["pixels"].sum()
    commands: list[list[str]] = [
        [], [], [], ["store", "verify", "--store", "STORE"],
        ["store", "repair", "--store", "STORE"], ["store", "list", "--store", "STORE"],
        ["store", "export", "--store", "STORE", "--to", str(folder / "export")],
        ["report", "STORE", "--out", str(folder / "report"), "--images", "1"],
    ]  # fmt: skip
    for number in range(cases):
        root = folder / f"store{number}"
        shutil.copytree(whole, root)
        what = generator.choice((_other_rows, _other_measures, _other_record, _other_picture))(
            root, generator
        )
        command = [word.replace("STORE", str(root)) for word in generator.choice(commands)]

        def run(root: Path = root, command: list[str] = command) -> None:
            if command:
                lines.complaint(command, None, may_pass=True)
            try:
                frame = results.load(root)
            except LabError as error:
                if str(root) not in str(error) and not any(c.key[:12] in str(error) for c in CELLS):
                    raise AssertionError(f"a store that is not named: {error}") from None
                raise
            assert (frame["pixels"] >= 0).all(), "a count below 0"
            mine = frame.loc[frame["spec"] == CELLS[1].key[:12], "pixels"].sum()
            assert mine == other, "other numbers of a cell beside"
            assert results.summary(frame)["miou"].between(0, 1).all(), "a score that is no share"
            measured = results.diagnostics(root)
            assert np.isfinite(measured["value"].dropna()).all(), "a value that is not finite"

        outcomes.case(f"sealed {what} then {command[:2]}", "", run)
        shutil.rmtree(root, ignore_errors=True)
        for place in ("export", "report"):
            shutil.rmtree(folder / place, ignore_errors=True)


ODD: list[Any] = nameable([
    None, float("nan"), float("inf"), -1, 0, 40_000, 2**40, 2**63 - 1, "text", "", "a\nb",
    "<script>", "../../x", b"bytes", True, [1], 0.5,
])  # fmt: skip


def _other_rows(root: Path, generator: random.Random) -> str:
    return _other_table(root, generator, chunks.COUNTS)


def _other_measures(root: Path, generator: random.Random) -> str:
    return _other_table(root, generator, chunks.MEASURES)


def _other_table(root: Path, generator: random.Random, kind: chunks.Kind) -> str:
    place = Store(root).directory(CELLS[0])
    (path,) = kind.files(place)
    frame = chunks.read_one(path, kind, CELLS[0].key).content.astype(object)
    column = generator.choice(list(kind.types))
    how = generator.randrange(6)
    value = generator.choice(ODD)
    if how == 0:
        frame = frame.drop(columns=column)
    elif how == 1:
        frame = frame.iloc[:0]
    elif how == 2:
        frame = pd.concat([frame, frame])
    elif how == 3:
        frame[column] = [value] * len(frame)
    else:
        values = list(frame[column])
        values[generator.randrange(len(values))] = value
        frame[column] = pd.Series(values, dtype=object, index=frame.index)
    path.unlink()
    try:
        sealed.write_table(place, kind.name, frame, {"cell": CELLS[0].key})
    except Exception:  # no parquet holds both kinds of value in one column
        frame[column] = [value] * len(frame)
        sealed.write_table(place, kind.name, frame, {"cell": CELLS[0].key})
    return f"{kind.name} {how} {column}={value!r}"


def _other_record(root: Path, generator: random.Random) -> str:
    path = Store(root).directory(CELLS[0]) / "spec.json"
    record = dict(sealed.read_json(path).content)
    places: list[tuple[Any, Any]] = [(record, key) for key in record]
    for key in ("names", "config", "class_names", "images", "identity"):
        below = record[key]
        places += [(below, k) for k in (below if isinstance(below, dict) else range(len(below)))]
    inside, key = generator.choice(places)
    value = generator.choice(
        [v for v in ODD if not isinstance(v, bytes)] + [[], {}, [[]], {"a": {}}]
    )
    if generator.random() < 0.2:
        del inside[key]
    else:
        inside[key] = value
    path.unlink()
    sealed.write_json(path, record)
    return f"spec.json {key}={value!r}"


def _other_picture(root: Path, generator: random.Random) -> str:
    place = Store(root).directory(CELLS[0]) / "panels"
    path = generator.choice(sorted(place.glob("*.npz")))
    image = next(name for name in IMAGES if path.stem == name.replace(" ", "%20"))
    value = generator.choice([
        np.zeros(0), np.zeros((4, 4, 4)), np.full((4, 4), np.nan), np.zeros((4, 4), "U3"),
        np.full((4, 4), 200, np.uint8), np.zeros((4, 4), np.complex64), np.array(5),
        np.full((4, 4), -7), np.zeros((1, 100_000), np.uint8),
    ])  # fmt: skip
    with np.load(path) as arrays:
        names = list(arrays)
    content = dict.fromkeys(names, value) if generator.random() < 0.8 else {"other": value}
    sealed.write_arrays(path, content, {"kind": "prediction", "cell": CELLS[0].key, "image": image})
    return f"picture {value.dtype}{value.shape}"


def sweeps(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Presets of a stranger: grids, launchers and defaults that are none."""
    own = folder / "own"
    (own / "experiment").mkdir(parents=True)
    file = own / "experiment/case.yaml"
    odd: list[Any] = [
        None, 5, -1, "text", "", [], [5], ["a=b"], {}, {"a": 1}, [{}], [{"attention": "csa"}],
        [{"attention": "nothing"}], [{"attention": "csa,nothing"}], [{"attention": 5}],
        [{"attention": None}], [{"when": 5}], [{"unless": "csa"}], [{"keep": 5}], [None],
        [{"seed": "nan,0"}], [{"protocol.logit_scale": "nan,40"}], [{"seed": "range(0,1e9)"}],
        [{"a=b": "c"}], [{"": "x"}], [[]], float("nan"), [{"attention": ["csa"]}],
        [{"dataset.limit": "1,-1"}], [{"when": {"attention": None}}], [{5: 6}], "csa,vanilla",
        [{"seed": "choice(0,1"}], {"attention": "csa,vanilla"}, {"attention": "${oc.env:HOME}"},
    ]  # fmt: skip
    places = [
        ("hydra", "sweeper", "grids"), ("hydra", "sweeper", "params"), ("hydra", "sweeper"),
        ("hydra", "launcher"), ("hydra", "sweeper", "max_batch_size"), ("hydra",), ("attention",),
        ("protocol", "templates"), ("dataset", "images"), ("seed",), ("defaults",),
        ("hydra", "launcher", "shards"), ("hydra", "run", "dir"), ("hydra", "job", "name"),
        ("plugins",), ("nothing",), ("pictures",), ("tracking",), ("diagnostics", "measures"),
    ]  # fmt: skip
    with lines.cheap(folder):
        for _ in range(cases):
            place, value = generator.choice(places), generator.choice(odd)
            content: dict[str, Any] = {
                "defaults": [{"override /hydra/sweeper": "union"}],
                "hydra": {"sweeper": {"grids": [{"attention": "csa"}]}},
            }
            node = content
            for part in place[:-1]:
                node = node.setdefault(part, {})
            node[place[-1]] = value
            file.write_text("# @package _global_\n" + yaml.safe_dump(content))
            line = ["evaluate", "-m", f"--config-dir={own}", "experiment=case", *lines.SMALL,
                    f"paths.store={folder / 'store'}",
                    f"hydra.sweep.dir={folder / 'sweep'}"]  # fmt: skip
            if generator.random() < 0.3:
                line = ["paper", "experiment=case", *lines.SMALL, "--out", str(folder / "p")]

            def run(line: list[str] = line) -> None:
                lines.complaint(line, None, may_pass=True)

            outcomes.case(f"sweep {'.'.join(place)}={value!r} {line[0]}", "", run)


def projection_files(
    outcomes: Outcomes, folder: Path, cases: int, generator: random.Random
) -> None:
    """Learned projections with a right seal and other content, evaluated."""
    file = folder / "projection.safetensors"
    tensors: list[Any] = [
        torch.eye(96), torch.eye(8), torch.eye(256), torch.full((96, 96), float("nan")),
        torch.full((96, 96), float("inf")), torch.zeros(96, 96), torch.zeros(0),
        torch.zeros(96, 96, dtype=torch.int64), torch.eye(96).half(), torch.zeros(96),
        torch.zeros(4, 96, 96), torch.eye(96).to(torch.complex64), torch.full((96, 96), 1e38),
    ]  # fmt: skip
    start = ["evaluate", *lines.SMALL, "attention=csa_learned", f"paths.store={folder / 'store'}",
             f"attention.projection_file={file}", f"hydra.run.dir={folder / 'run'}"]  # fmt: skip
    metadata: list[dict[str, str]] = [{"per_head": "True"}, {"per_head": "False"}, {},
                                      {"per_head": "nan"}, {"per_head": ""}]  # fmt: skip
    with lines.cheap(folder):
        sealed.write_tensors(file, {"projection": torch.eye(96)}, {"kind": "projection"})
        assert lines.run(start)[0] == 0, "a sound projection cannot be evaluated"
        for _ in range(cases):
            tensor, said = generator.choice(tensors), generator.choice(metadata)
            name = "projection" if generator.random() < 0.9 else "other"
            belongs = {"kind": "projection" if generator.random() < 0.9 else "text"}
            sealed.write_tensors(file, {name: tensor}, belongs, said)
            line = [*start, f"attention.per_head={generator.choice(['true', 'false'])}"]
            if generator.random() < 0.2:
                line = ["explore", str(folder / "photo.png"), "--attention", "csa_learned"]

            def named(text: str) -> bool:
                return str(file) in text or "projection" in text

            what = f"projection {name} {tensor.dtype}{tuple(tensor.shape)} {said}"
            outcomes.case(what, "", _checked(line, named, folder / "store"))
