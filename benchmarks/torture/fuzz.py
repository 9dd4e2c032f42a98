"""Malformed input of every sort: one clear error that names the culprit, or a right answer."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

import sclip_lab as lab
from benchmarks.torture import configs, data_sets, files, lines, wholes
from benchmarks.torture.kills import CELLS, work
from benchmarks.torture.outcomes import BAD, Outcomes, examples, mutated
from benchmarks.torture.shares import Share, timed
from sclip_lab import results
from sclip_lab.attention.projected import load_projection
from sclip_lab.config.registry import load_attention, load_protocol, names
from sclip_lab.core import sealed
from sclip_lab.data.decode import read_image, read_mask
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.segmentation.protocol import Protocol

Sort = Callable[[Outcomes, Path, int, random.Random], None]
# Whose first cases are made by hand: all in one share.
WHOLE = ("checkpoints",)


def sorts() -> dict[Sort, float]:
    """Each sort of input, and its part of all cases."""
    return {
        pictures: 0.145, vocabularies: 0.08, protocols: 0.12, attentions: 0.06, projections: 0.03,
        stores: 0.03, files.checkpoints: 0.07, files.yamls: 0.06, configs.values: 0.13,
        wholes.sealed_stores: 0.05, wholes.projection_files: 0.005, wholes.sweeps: 0.01,
        data_sets.folders: 0.02, wholes.overrides: 0.04, lines.commands: 0.1,
        lines.evaluations: 0.05,
    }  # fmt: skip


def shares_of(folder: Path, cases: int, each: int, seed: int) -> Iterator[Share]:
    """About so many cases in shares of ``each``, the slow ones first."""
    for sort, part in reversed(sorts().items()):
        left, number = max(1, round(part * cases)), 0
        size = left if sort.__name__ in WHOLE else each
        while left > 0:
            place = folder / f"{sort.__name__}{number}"
            generator = random.Random(f"{seed} {sort.__name__} {number}")
            yield Share(
                sort.__name__, timed(partial(made, sort, place, min(size, left), generator))
            )
            left, number = left - size, number + 1


def made(sort: Sort, place: Path, cases: int, generator: random.Random) -> dict[str, Any]:
    """So many cases of a sort, in a folder of their own."""
    outcomes = Outcomes()
    place.mkdir(parents=True)
    os.chdir(place)
    sort(outcomes, place, cases, generator)
    return {**outcomes.counts, "wrong_cases": outcomes.wrong}


def pictures(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Photos and masks in many formats, whole and changed."""
    ids = np.random.default_rng(0).integers(0, 4, (24, 32), dtype=np.uint8)
    grey, colour = Image.fromarray(ids), Image.fromarray(np.stack([ids * 60] * 3, -1))
    palette = grey.convert("P")
    corpus = []
    for form, pictured in (
        ("png", grey), ("png", palette), ("png", colour), ("jpeg", colour), ("tiff", grey),
        ("bmp", grey), ("gif", palette), ("webp", colour), ("ppm", grey),
        ("png", colour.convert("LA")), ("tiff", colour.convert("CMYK")),
        ("png", Image.fromarray(ids.astype(np.uint16) * 256)),
    ):  # fmt: skip
        sink = io.BytesIO()
        pictured.save(sink, form)
        corpus.append((form, sink.getvalue()))
    for number in range(cases):
        form, content = corpus[number % len(corpus)]
        path = folder / f"case{number}.{form}"
        path.write_bytes(mutated(content, generator))
        reader = read_mask if generator.random() < 0.5 else read_image

        def run(path: Path = path, reader: Any = reader, whole: bytes = content) -> None:
            got = reader(path)
            assert got.size, "an empty array"
            if whole.startswith(b"\x89PNG") and path.read_bytes() != whole:
                good = path.with_suffix(".good")
                good.write_bytes(whole)
                assert np.array_equal(got, reader(good)), "other pixels of a PNG with checksums"

        outcomes.case(f"{reader.__name__} {form}", path.name, run)
        path.unlink(missing_ok=True)
    _special(outcomes, folder)


def _special(outcomes: Outcomes, folder: Path) -> None:
    """What is no file: a pipe, a device, a link to one, a folder, a circle, an endless name."""
    pipe, device, circle = folder / "pipe.png", folder / "device.png", folder / "circle.png"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    circle.symlink_to(circle)
    for path in (pipe, device, circle, folder, folder / ("x" * 5000), Path("a\0b")):
        for reader in (read_image, read_mask, Vocabulary.read):
            outcomes.case(f"{reader.__name__} {path.name[:20]}", "", lambda: reader(path))  # noqa: B023


def vocabularies(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Lists of names: text of all letters, and bytes."""
    path = folder / "names.txt"
    letters = st.text(max_size=12)
    lines = st.lists(letters, max_size=8).map("\n".join)
    contents = st.one_of(
        st.binary(max_size=80),
        lines.map(lambda text: text.encode("utf-8", "ignore")),
        st.lists(st.sampled_from(["cat", "dog", "sky, blue", "\ufeffcat", "a\tb", "a\u2028b"]),
                 max_size=5).map(lambda names: "\r\n".join(names).encode()),
    )  # fmt: skip

    def one(content: bytes) -> None:
        path.write_bytes(content)

        def run() -> None:
            found = Vocabulary.read(path)
            assert len(set(found.names)) == found.num_classes, "a name of two classes"
            letters = "".join(found.names)
            shown = [c for c in letters if c.isprintable() or unicodedata.category(c) == "Zs"]
            assert set(letters) <= {*shown, "\u200c", "\u200d"}, "hidden letters"
            assert "\ufeff" not in "".join(found.queries), "a byte order mark in a name"
            json.dumps(found.queries).encode()

        outcomes.case("vocabulary", path.name, run)

    examples(contents, one, cases, generator)


def protocols(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Every value of a protocol replaced by what cannot be meant."""
    protocol = load_protocol("sclip")
    usual = {f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol) if f.init}
    values = st.one_of(st.sampled_from(BAD), st.floats(), st.integers(), st.text(max_size=9))

    def one(drawn: tuple[str, Any]) -> None:
        key, value = drawn

        def run() -> None:
            made = Protocol(**{**usual, key: value})
            json.dumps([getattr(made, name) for name in usual], allow_nan=False)
            assert isinstance(made.logit_scale, int | float), "a scale that is no number"

        outcomes.case(f"protocol.{key}={value!r}"[:90], key, run)

    examples(st.tuples(st.sampled_from(sorted(usual)), values), one, cases, generator)


def attentions(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Every value of every attention's file likewise."""
    files = [name for name in names("attention") if name != "csa_learned"]
    known = {name: load_attention(name).config for name in files}
    for _ in range(cases):
        name = generator.choice(files)
        nested = ("_target_", "prior", "mix", "repair")
        key = generator.choice([key for key in known[name] if key not in nested])
        value = generator.choice(BAD)

        def run(name: str = name, key: str = key, value: Any = value) -> None:
            made = lab.load_attention(name, **{key: value})
            try:
                json.dumps(dict(made.config), allow_nan=False)
            except ValueError:
                raise AssertionError("a number that is not finite") from None

        outcomes.case(f"attention={name} {key}={value!r}"[:90], key, run)


def projections(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Learned projections, changed."""
    import torch

    path = folder / "projection.safetensors"
    good = torch.eye(8)
    sealed.write_tensors(path, {"projection": good}, {"kind": "projection"}, {"per_head": "True"})
    whole = path.read_bytes()

    def run() -> None:
        assert torch.equal(load_projection(str(path))[0], good), "another matrix"

    for _ in range(cases):
        path.write_bytes(mutated(whole, generator))
        outcomes.case("projection", path.name, run)


def stores(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Files of a store, changed; the cell beside stays as it was."""
    root = folder / "store"
    work(root)
    other = results.load(root, [CELLS[1].key])["pixels"].sum()
    files = sorted((root / "specs" / CELLS[0].key).glob("*.*"))

    for number in range(cases):
        path = files[number % len(files)]
        whole = path.read_bytes()

        def run() -> None:
            frame = results.load(root)
            mine = frame.loc[frame["spec"] == CELLS[1].key[:12], "pixels"].sum()
            assert mine == other, "other numbers of a cell beside"
            results.specs(root)
            results.diagnostics(root)

        path.write_bytes(mutated(whole, generator))
        outcomes.case(f"store {path.name[:12]}", "", run)
        path.write_bytes(whole)
