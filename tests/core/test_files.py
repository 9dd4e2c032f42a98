"""What was written is read back; anything else is found. Oracle: the change made by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sclip_lab.core import files
from sclip_lab.core.errors import LabError

FRAME = pd.DataFrame({"image": ["a", "a", "b"], "pixels": [1, 2, 3]})
TENSORS = {"x": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3).bfloat16()}
ARRAYS = {"x": np.arange(12, dtype=np.uint8).reshape(3, 4)}
RECORD = {"a": 1.5, "ü": ["b", None]}
HERE, ELSEWHERE = {"cell": "one"}, {"cell": "two"}
Read = Callable[..., object]


def json_file(folder: Path) -> tuple[Path, Read]:
    path = folder / "spec.json"
    files.write_json(path, RECORD, HERE)
    return path, lambda place=HERE: files.read_json(path, place)


def table_file(folder: Path) -> tuple[Path, Read]:
    path = files.write_table(folder, "rows", FRAME, HERE)
    return path, lambda place=HERE: files.read_table(path, place, list(FRAME))


def tensor_file(folder: Path) -> tuple[Path, Read]:
    path = folder / "x.safetensors"
    files.write_tensors(path, TENSORS, HERE, {"per_head": "True"})
    return path, lambda place=HERE: files.read_tensors(path, place)


def array_file(folder: Path) -> tuple[Path, Read]:
    path = folder / "x.npz"
    files.write_arrays(path, ARRAYS, HERE)
    return path, lambda place=HERE: files.read_arrays(path, place)


FILES = [json_file, table_file, tensor_file, array_file]


def test_round_trips_and_other_programs_read_the_files(tmp_path: Path) -> None:
    path, read = json_file(tmp_path)
    assert read() == RECORD
    assert json.loads(path.read_text())["ü"] == ["b", None]
    path, read = table_file(tmp_path)
    pd.testing.assert_frame_equal(read(), FRAME)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(pd.read_parquet(path), FRAME)
    path, read = tensor_file(tmp_path)
    tensors, notes = read()  # type: ignore[misc]
    assert notes == {"per_head": "True"}
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert torch.equal(load_file(path)[name], tensor)
    path, read = array_file(tmp_path)
    np.testing.assert_array_equal(read()["x"], ARRAYS["x"])  # type: ignore[index]
    np.testing.assert_array_equal(np.load(path)["x"], ARRAYS["x"])


@pytest.mark.parametrize("make", FILES)
def test_every_changed_bit_is_found(make: Callable[..., tuple[Path, Read]], tmp_path: Path) -> None:
    path, read = make(tmp_path)
    whole = path.read_bytes()
    bits = np.random.default_rng(0).permutation(len(whole) * 8)[:1500]
    for place in bits:
        content = bytearray(whole)
        content[place // 8] ^= 1 << (place % 8)
        path.write_bytes(content)
        with pytest.raises(files.Damaged, match=path.name):
            read()


@pytest.mark.parametrize("make", FILES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_hostile_bytes_end_in_one_error(
    make: Callable[..., tuple[Path, Read]],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Anything in the place of a file: random bytes, parts of it, it twice, with parts swapped."""
    path, read = make(tmp_path_factory.mktemp("hostile"))
    whole = path.read_bytes()
    cut = st.integers(0, len(whole))
    content = data.draw(
        st.one_of(
            st.binary(max_size=200),
            cut.map(lambda end: whole[:end]),
            cut.map(lambda start: whole[start:]),
            st.binary(min_size=1, max_size=9).map(lambda more: whole + more),
            st.tuples(cut, cut).map(lambda at: whole[: min(at)] + whole[max(at) :]),
            st.tuples(cut, st.binary(min_size=1, max_size=9)).map(
                lambda at: whole[: at[0]] + at[1] + whole[at[0] + len(at[1]) :]
            ),
            st.just(whole + whole),
        ).filter(lambda content: content != whole)
    )
    path.write_bytes(content)
    with pytest.raises(files.Damaged, match=path.name):
        read()


@pytest.mark.parametrize("make", FILES)
@pytest.mark.parametrize("odd", ["pipe", "device", "huge", "folder"])
def test_what_is_no_file_of_ours_is_not_read(
    make: Callable[..., tuple[Path, Read]], odd: str, tmp_path: Path
) -> None:
    path, read = make(tmp_path)
    if odd == "huge":
        os.truncate(path, 1 << 40)  # sparse: takes no room
    else:
        path.unlink()
        {"pipe": os.mkfifo, "folder": os.mkdir}.get(odd, lambda p: p.symlink_to("/dev/zero"))(path)
    text = {"huge": "has 1099511627776 bytes", "folder": "directory"}.get(odd, "a pipe or device")
    with pytest.raises(LabError, match=text) as caught:
        read()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("make", FILES)
def test_a_file_in_another_place_is_found(
    make: Callable[..., tuple[Path, Read]], tmp_path: Path
) -> None:
    path, read = make(tmp_path)
    with pytest.raises(files.Damaged, match=f"{path.name} is not what was written here"):
        read(ELSEWHERE)


@pytest.mark.parametrize("change", ["a row dropped", "a count negative"])
def test_a_table_written_again_is_found(change: str, tmp_path: Path) -> None:
    path, read = table_file(tmp_path)
    table = pq.read_table(path)
    if change == "a row dropped":
        table = table.slice(1)
    else:
        table = table.set_column(1, "pixels", [[-1, 2, 3]])
    pq.write_table(table, path)
    with pytest.raises(files.Damaged, match="not what was written"):
        read()


def test_a_value_changed_in_a_record_is_found(tmp_path: Path) -> None:
    path, read = json_file(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "a": 2.5}))
    with pytest.raises(files.Damaged, match="seal"):
        read()


def test_a_name_that_looks_like_a_seal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no name may contain 'sclip-lab-seal:'"):
        files.write_json(tmp_path / "x.json", {"images": ["sclip-lab-seal:1"]}, HERE)
    assert not list(tmp_path.iterdir())


def test_a_flip_in_the_seals_mark_does_not_make_a_file_foreign(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, TENSORS, HERE)
    path.write_bytes(path.read_bytes().replace(b"sclip-lab-seal", b"sclip-lab-sgal"))
    with pytest.raises(files.Damaged, match="its seal is damaged"):
        files.read_tensors(path, HERE, foreign=True)


def test_only_a_reader_that_expects_foreign_files_takes_one_without_a_seal(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, {"by": "another program"})
    with pytest.raises(files.Damaged, match="has no seal"):
        files.read_tensors(path, HERE)
    tensors, notes = files.read_tensors(path, HERE, foreign=True)
    assert torch.equal(tensors["x"], TENSORS["x"])
    assert notes == {"by": "another program"}
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(files.Damaged, match="not a safetensors file"):
        files.read_tensors(path, HERE, foreign=True)


def test_damage_is_kept_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "specs" / "one" / "spec.json"
    files.write_text(path, "{")
    with pytest.raises(files.Damaged) as caught:
        files.read_json(path, HERE)
    for _ in range(2):  # the second finds it gone already
        files.set_aside(tmp_path, caught.value)
    [moved] = (tmp_path / "damaged" / "specs" / "one").iterdir()
    assert moved.read_text() == "{"
    assert caplog.text.count(str(path)) == 1


def test_temporary_files_of_dead_processes_are_lost(tmp_path: Path) -> None:
    names: list[str] = []

    def die(temporary: Path) -> None:
        temporary.write_text("half")
        names.append(temporary.name)
        raise OSError(28, "No space left on device")

    with pytest.raises(LabError, match="No space left"):
        files.write(tmp_path / "file", die)
    assert not list(tmp_path.iterdir())
    old, young = tmp_path / names[0], tmp_path / f".{'0' * 16}.tmp"
    for path in (old, young):
        path.write_text("half")
        assert files.is_temporary(path)
    os.utime(old, (0, 0))
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [young]  # somebody may still write it
