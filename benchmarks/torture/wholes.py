"""Whole command lines over whole files: every key of the configuration as one types it, stores that
somebody sealed with other content, folders of photos and masks in every form, sweeps, projections.
"""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from benchmarks.torture import lines
from benchmarks.torture.configs import STARTS, leaves
from benchmarks.torture.confine import nameable
from benchmarks.torture.kills import CELLS, IMAGES, work
from benchmarks.torture.outcomes import Outcomes
from sclip_lab import results, sealed
from sclip_lab.app.composing import sweep
from sclip_lab.errors import LabError
from sclip_lab.results import chunks
from sclip_lab.results.store import Store

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


def folders(outcomes: Outcomes, folder: Path, cases: int, generator: random.Random) -> None:
    """Data sets of one's own: photos and masks of all forms, lists, values of the yaml."""
    own = folder / "own"
    conf = own / "dataset"
    conf.mkdir(parents=True)
    with lines.cheap(folder):
        for number in range(cases):
            root = folder / f"data{number}"
            what, may_pass = _data_set(root, conf / "case.yaml", generator)
            command = generator.choice(["evaluate", "evaluate", "verify", "learn"])
            line = {
                "evaluate": ["evaluate", f"--config-dir={own}", "dataset=case",
                             *(w for w in lines.SMALL if not w.startswith("dataset.")),
                             f"paths.store={folder / 'store'}", f"hydra.run.dir={folder / 'run'}"],
                "verify": ["data", "verify", "case"],
                "learn": ["learn-projection", "--dataset", "case", "--images", "1", "--steps", "1",
                          "--out", str(folder / "out.safetensors")],
            }[command]  # fmt: skip

            def run(
                line: list[str] = line, command: str = command, may_pass: bool = may_pass
            ) -> None:
                with lines.own_folder(own):
                    lines.complaint(line, None, may_pass=may_pass or command != "evaluate")

            outcomes.case(f"data set {what}: {command}", "", run)
            shutil.rmtree(root, ignore_errors=True)
            shutil.rmtree(folder / "store", ignore_errors=True)


def _data_set(root: Path, file: Path, generator: random.Random) -> tuple[str, bool]:
    """A small data set of two photos with something odd; whether it may be used all the same."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    noise = np.random.default_rng(generator.randrange(1000)).integers(0, 255, (48, 64, 3))
    ids = (noise[..., 0] % 3).astype(np.uint8)
    for stem in ("one", "two"):
        Image.fromarray(noise.astype(np.uint8)).save(root / f"images/{stem}.png")
        Image.fromarray(ids).save(root / f"masks/{stem}.png")
    (root / "names.txt").write_text("sky\ngrass\ncat\n")
    values: dict[str, Any] = {
        "_target_": "sclip_lab.data.folder.Folder", "name": "case", "root": str(root),
        "images": "images", "masks": "masks", "image_suffix": ".png",
        "vocabulary": str(root / "names.txt"),
    }  # fmt: skip
    what, may_pass = "", True
    how = generator.randrange(4)
    if how == 0:
        key = generator.choice([*values, "mask_suffix", "mask_name", "ignore_index", "label_map",
                                "reduce_zero_label", "split", "recursive", "limit", "expected",
                                "nothing"])  # fmt: skip
        odd: list[Any] = [None, -1, 0, 1, 300, 2**40, 0.5, float("nan"), "", "text", "..", "/dev",
                          "a\nb", "x" * 300, [], [1], {}, {1: 2}, {0: 70000}, {"a": "b"},
                          {1: float("nan")}, True, "../../x"]  # fmt: skip
        value = generator.choice(nameable(odd))
        values[key] = value
        what = f"{key}={value!r}"[:60]
    elif how == 1:
        name, content, may_pass = generator.choice(list(_masks(ids)))
        (root / "masks/two.png").write_bytes(content)
        what = f"mask {name}"
    elif how == 2:
        name, content, may_pass = generator.choice(list(_photos(noise.astype(np.uint8))))
        (root / "images/two.png").write_bytes(content)
        what = f"photo {name}"
    else:
        text = generator.choice([b"", b"sky\n", b"sky\nsky\ncat\n", b"sky\n\ncat", b"\xff\xfe",
                                 b"\xef\xbb\xbfsky\ngrass\ncat", b"a\nb\nc\n\n\n", b"a,,b\nc\nd",
                                 b"a\x00\nb\nc", b"<b>\n$x$\n{}", b"x" * 5000, b"\n".join(
                                     b"%d" % n for n in range(300))])  # fmt: skip
        (root / "names.txt").write_bytes(text)
        what = f"names {text[:30]!r}"
    file.write_text(yaml.safe_dump(values))
    return what, may_pass


def _stored(image: Image.Image, form: str = "png", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def _masks(ids: np.ndarray) -> Iterator[tuple[str, bytes, bool]]:
    """Name, bytes, whether it may be read."""
    grey = Image.fromarray(ids)
    whole = _stored(grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    yield "cut", whole[: len(whole) // 2], False
    yield "cut at the end", whole[:-5], False
    yield "empty", b"", False
    yield "colours", _stored(grey.convert("RGB")), False
    yield "alpha", _stored(grey.convert("LA")), False
    yield "id 200", _stored(Image.fromarray(ids + 198)), False
    yield "another size", _stored(grey.resize((30, 30))), False
    yield "turned", _stored(grey, exif=turned), False
    yield "4 bits of grey", _png(ids, bits=4, kind=0), False
    yield "2 bits of grey", _png(ids, bits=2, kind=0), False
    yield "2 bits of a palette", _png(ids, bits=2, kind=3), True
    yield "16 bits", _stored(Image.fromarray(ids.astype(np.uint16))), True
    yield "16 bits, id 60000", _stored(Image.fromarray(ids.astype(np.uint16) + 60000)), False
    yield "palette", _stored(grey.convert("P")), True
    yield "jpeg", _stored(Image.fromarray(ids * 80), "jpeg"), False
    yield "text", b"some text", False


def _photos(pixels: np.ndarray) -> Iterator[tuple[str, bytes, bool]]:
    colour = Image.fromarray(pixels)
    whole = _stored(colour)
    turned = Image.Exif()
    turned[0x0112] = 3
    yield "cut", whole[: len(whole) // 2], False
    yield "empty", b"", False
    yield "another size", _stored(colour.resize((30, 30))), False
    yield "floats", _stored(Image.fromarray(pixels[..., 0].astype(np.float32)), "tiff"), False
    yield "turned over", _stored(colour, exif=turned), True
    yield "alpha", _stored(colour.convert("RGBA")), True
    yield "CMYK", _stored(colour.convert("CMYK"), "tiff"), True
    yield "grey", _stored(colour.convert("L")), True
    yield "1 bit", _stored(colour.convert("1")), True
    yield "palette", _stored(colour.quantize(16)), True
    yield "16 bits of grey", _stored(Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)), True
    yield "webp", _stored(colour, "webp"), True
    yield "two frames", _stored(colour, "gif", save_all=True, append_images=[colour]), True
    yield (
        "a header of 100,000 x 100,000",
        whole[:16] + bytes.fromhex("000186a0000186a0") + whole[24:],
        False,
    )


def _png(ids: np.ndarray, bits: int, kind: int) -> bytes:
    """A PNG of few bits a pixel, made by hand: PIL would choose them by itself."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    height, width = ids.shape
    each = 8 // bits
    parts = ids.reshape(height, width // each, each)
    packed = sum(parts[..., i].astype(int) << (8 - bits * (i + 1)) for i in range(each))
    rows = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in np.asarray(packed))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits))) if kind == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


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
        [{"dataset.images": "1,-1"}], [{"when": {"attention": None}}], [{5: 6}], "csa,vanilla",
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
        torch.eye(64), torch.eye(8), torch.eye(256), torch.full((64, 64), float("nan")),
        torch.full((64, 64), float("inf")), torch.zeros(64, 64), torch.zeros(0),
        torch.zeros(64, 64, dtype=torch.int64), torch.eye(64).half(), torch.zeros(64),
        torch.zeros(4, 64, 64), torch.eye(64).to(torch.complex64), torch.full((64, 64), 1e38),
    ]  # fmt: skip
    metadata: list[dict[str, str]] = [{"per_head": "True"}, {"per_head": "False"}, {},
                                      {"per_head": "nan"}, {"per_head": ""}]  # fmt: skip
    with lines.cheap(folder):
        for _ in range(cases):
            tensor, said = generator.choice(tensors), generator.choice(metadata)
            name = "projection" if generator.random() < 0.9 else "other"
            belongs = {"kind": "projection" if generator.random() < 0.9 else "text"}
            sealed.write_tensors(file, {name: tensor}, belongs, said)
            line = ["evaluate", *lines.SMALL, "attention=csa_learned",
                    f"attention.projection_file={file}", f"paths.store={folder / 'store'}",
                    f"hydra.run.dir={folder / 'run'}",
                    f"attention.per_head={generator.choice(['true', 'false'])}"]  # fmt: skip
            if generator.random() < 0.2:
                line = ["explore", str(folder / "photo.png"), "--attention", "csa_learned"]

            def named(text: str) -> bool:
                return str(file) in text or "projection" in text

            what = f"projection {name} {tensor.dtype}{tuple(tensor.shape)} {said}"
            outcomes.case(what, "", _checked(line, named, folder / "store"))
