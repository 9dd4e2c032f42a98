"""Malformed input of every sort: one clear error that names the culprit, or a right answer."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import signal
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st
from PIL import Image

import sclip_lab as lab
from benchmarks.torture.kills import CELLS, work
from sclip_lab import results, sealed
from sclip_lab.app import cli
from sclip_lab.app.registry import load_attention, load_protocol, names
from sclip_lab.attention.projected import load_projection
from sclip_lab.data.decode import read_image, read_mask
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.errors import LabError
from sclip_lab.segmentation.protocol import Protocol

SECONDS = 20  # of one case, beyond which it hangs
BAD: list[Any] = [
    float("nan"), float("inf"), -float("inf"), -1, 0, 1, 2, -0.0, 0.5, 1e-300, 1e308, 2**31, 2**63,
    10**30, "", "abc", "nan", "x" * 3000, "a\x00b", "\ud800", [], [1], [float("nan")], {}, {"a": 1},
    {"_target_": "os.system"}, {"_target_": 5}, None, True, False, [[]], [None], "${oc.env:HOME}",
]  # fmt: skip


class Hang(BaseException):
    """A case that took too long; no `Exception`, so that nothing catches it."""


class Outcomes:
    """What became of the cases.

    Attributes:
        counts: right answers, clear errors, and what is wrong: tracebacks, hangs, silent numbers,
            errors without the culprit's name.
        wrong: a few words on each wrong one.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def case(self, what: str, culprit: str, run: Callable[[], object]) -> None:
        """Run one case. ``run`` raises AssertionError where it got a number it should not have."""
        try:
            with _limit(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run()
        except LabError as error:
            text = str(error)
            if "\n" in text.strip():
                self._wrong("more than one line", what, text)
            elif culprit and culprit not in text:
                self._wrong("unnamed", what, text)
            else:
                self.counts["clear error"] += 1
        except AssertionError as error:
            self._wrong("silent", what, str(error))
        except Hang:
            self._wrong("hang", what, "")
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            self._wrong("traceback", what, f"{type(error).__name__} in {place}: {error}")
        else:
            self.counts["right"] += 1

    def _wrong(self, kind: str, what: str, text: str) -> None:
        self.counts[kind] += 1
        self.wrong.append(f"{kind}: {what}: {text}"[:300])


def fuzz(folder: Path, cases: int, generator: random.Random) -> Outcomes:
    """About so many cases, shared out over all sorts."""
    outcomes = Outcomes()
    share: dict[Callable[[Outcomes, Path, int, random.Random], None], float] = {
        pictures: 0.4, vocabularies: 0.24, protocols: 0.22, attentions: 0.05, projections: 0.05,
        stores: 0.02, command_lines: 0.02,
    }  # fmt: skip
    for sort, part in share.items():
        place = folder / sort.__name__
        place.mkdir(parents=True)
        sort(outcomes, place, max(1, round(part * cases)), generator)
    return outcomes


def mutated(content: bytes, generator: random.Random) -> bytes:
    """A file with bits changed, cut, doubled or with other bytes put in."""
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 2, 8])):
        place = generator.randrange(max(1, len(changed)))
        how = generator.randrange(4)
        if how == 0 and changed:
            changed[place % len(changed)] ^= 1 << generator.randrange(8)
        elif how == 1:
            del changed[place:]
        elif how == 2:
            changed[place:place] = generator.randbytes(generator.randrange(1, 30))
        else:
            del changed[place : place + generator.randrange(1, 30)]
    return bytes(changed)


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

    _examples(contents, one, cases, generator)


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

    _examples(st.tuples(st.sampled_from(sorted(usual)), values), one, cases, generator)


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


def command_lines(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """``sclip-lab`` with words that make no sense; status 0, 1 or 2 and no traceback."""
    words = ["store", "data", "list", "verify", "gc", "repair", "export", "--store", "--to",
             "--from", str(folder), "nothing",
             "", "\ud800", "x" * 300, "--dry-run", "prepare", "voc21", "-1",
             "nan", "--data", "\x00", "../..", "patchwork"]  # fmt: skip
    for _ in range(cases):
        line = [generator.choice(["store", "data"])]
        line += [generator.choice(words) for _ in range(generator.randrange(1, 5))]

        def run(line: list[str] = line) -> None:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                try:
                    code = cli.main(line)
                except SystemExit as stop:
                    code = stop.code  # type: ignore[assignment]
            assert code in (0, 1, 2), f"status {code}"

        outcomes.case(f"command line {line}"[:120], "", run)


def _examples(
    strategy: Any, one: Callable[[Any], None], cases: int, generator: random.Random
) -> None:
    """Give so many of hypothesis's examples to a function."""
    done = 0
    while done < cases:
        count = min(cases - done, 2000)
        seen: list[Any] = []

        keep = _keeper(seen)
        test = hypothesis.given(example=strategy)(keep)
        test = hypothesis.settings(
            max_examples=count, database=None, deadline=None, phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )(test)  # fmt: skip
        hypothesis.seed(generator.randrange(2**32))(test)()
        for example in seen[:count]:
            one(example)
        done += max(1, len(seen[:count]))


def _keeper(seen: list[Any]) -> Callable[[Any], None]:
    def keep(example: Any) -> None:
        seen.append(example)

    return keep


@contextmanager
def _limit() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
