"""What was written is read back; anything else is found. Oracle: the change made by hand."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from sclip_lab.core import atomic, sealed
from sclip_lab.core.errors import LabError

FRAME = pd.DataFrame({"image": ["a", "a", "b"], "pixels": [1, 2, 3]})
TENSORS = {"x": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3).bfloat16()}
ARRAYS = {"x": np.arange(12, dtype=np.uint8).reshape(3, 4)}
HERE = {"cell": "one"}


def json_file(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "spec.json"
    sealed.write_json(path, {"a": 1.5, "ü": ["b", None]})
    return path, lambda: sealed.read_json(path)


def table_file(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = sealed.write_table(folder, "rows", FRAME, HERE)
    return path, lambda: sealed.read_table(path, "rows", HERE)


def tensor_file(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "x.safetensors"
    sealed.write_tensors(path, TENSORS, HERE, {"per_head": "True"})
    return path, lambda: sealed.read_tensors(path, HERE)


def array_file(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "x.npz"
    sealed.write_arrays(path, ARRAYS, HERE)
    return path, lambda: sealed.read_arrays(path, HERE)


FILES = [json_file, table_file, tensor_file, array_file]


def test_round_trips(tmp_path: Path) -> None:
    _, read_json = json_file(tmp_path)
    assert read_json() == ({"a": 1.5, "ü": ["b", None]}, True)
    path, read_table = table_file(tmp_path)
    frame, is_sealed = read_table()  # type: ignore[misc]
    assert is_sealed
    pd.testing.assert_frame_equal(frame, FRAME)
    pd.testing.assert_frame_equal(pd.read_parquet(path), FRAME)  # another lab's tools read it
    (tensors, is_sealed), said = tensor_file(tmp_path)[1]()  # type: ignore[misc]
    assert is_sealed
    assert said == {"per_head": "True"}
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
    arrays, is_sealed = array_file(tmp_path)[1]()  # type: ignore[misc]
    assert is_sealed
    np.testing.assert_array_equal(arrays["x"], ARRAYS["x"])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["x"], ARRAYS["x"])


@pytest.mark.parametrize("make", FILES)
def test_a_changed_bit_is_found_or_changes_nothing(make, tmp_path: Path) -> None:
    path, read = make(tmp_path)
    whole, sound = path.read_bytes(), repr(read())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole) * 8, 150):
        content = bytearray(whole)
        content[place // 8] ^= 1 << (place % 8)
        path.write_bytes(content)
        try:
            # A bit of the seal's own name makes a file without a seal, whose content is whole.
            # Its entry may stand first or last: safetensors writes metadata in any order.
            found = re.sub(r"(, )?'[^']{3,12}': '[0-9a-f]{64}'(?(1)|, )", "", repr(read()))
            assert found.replace("sealed=False", "sealed=True") == sound
        except sealed.Damaged:
            continue
    path.write_bytes(whole[:-7])
    with pytest.raises(sealed.Damaged, match=path.name):
        read()


@pytest.mark.parametrize("make", FILES)
@pytest.mark.parametrize("odd", ["pipe", "device", "huge"])
def test_what_never_ends_is_damaged_at_once(make, odd: str, tmp_path: Path) -> None:
    path, read = make(tmp_path)
    if odd == "huge":
        os.truncate(path, 1 << 40)  # sparse: takes no room
    else:
        path.unlink()
        os.mkfifo(path) if odd == "pipe" else path.symlink_to("/dev/zero")
    text = "has 1099511627776 bytes" if odd == "huge" else "is a pipe or device, not a file"
    with pytest.raises(sealed.Damaged, match=text) as found:
        read()
    assert str(path) in str(found.value)


def test_small_files_that_unpack_to_more_than_there_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = array_file(tmp_path)
    sealed.write_arrays(path, {"x": np.zeros(100_000, np.uint8)}, HERE)
    monkeypatch.setattr(sealed, "LARGEST", path.stat().st_size)
    with pytest.raises(sealed.Damaged, match="it unpacks to 1001"):
        read()
    _, read = table_file(tmp_path)
    monkeypatch.setattr(sealed, "MOST_ROWS", 2)
    monkeypatch.setattr(sealed, "LARGEST", 1 << 20)
    with pytest.raises(sealed.Damaged, match="3 rows, more than 2"):
        read()


def test_a_file_in_another_place_is_found(tmp_path: Path) -> None:
    elsewhere = {"cell": "two"}
    for make, read in (
        (table_file, lambda path: sealed.read_table(path, "rows", elsewhere)),
        (tensor_file, lambda path: sealed.read_tensors(path, elsewhere)),
        (array_file, lambda path: sealed.read_arrays(path, elsewhere)),
        (table_file, lambda path: sealed.read_table(path, "diagnostics", HERE)),
    ):
        path, _ = make(tmp_path)
        with pytest.raises(sealed.Damaged, match=path.name):
            read(path)


@pytest.mark.parametrize("change", ["a row dropped", "a count negative"])
def test_a_table_written_again_is_found(change: str, tmp_path: Path) -> None:
    path, read = table_file(tmp_path)
    table = pq.read_table(path)
    if change == "a row dropped":
        table = table.slice(1)
    else:
        table = table.set_column(1, "pixels", [[-1, 2, 3]])
    pq.write_table(table, path)
    with pytest.raises(sealed.Damaged, match="not what was written"):
        read()


def test_a_value_changed_in_a_record_is_found(tmp_path: Path) -> None:
    path, read = json_file(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "a": 2.5}))
    with pytest.raises(sealed.Damaged, match="seal"):
        read()


def test_files_without_a_seal_are_read_and_told_apart(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text('{"a": 1}')
    assert sealed.read_json(tmp_path / "spec.json") == ({"a": 1}, False)
    FRAME.to_parquet(tmp_path / "rows-000001.parquet")
    assert not sealed.read_table(tmp_path / "rows-000001.parquet", "rows", HERE).sealed
    np.savez_compressed(tmp_path / "x.npz", **ARRAYS)
    assert not sealed.read_arrays(tmp_path / "x.npz", HERE).sealed


def test_damage_is_kept_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "specs" / "one" / "spec.json"
    atomic.write_text(path, "{")
    with pytest.raises(sealed.Damaged) as caught:
        sealed.read_json(path)
    for _ in range(2):  # the second finds it gone already
        sealed.set_aside(tmp_path, caught.value)
    [kept] = (tmp_path / "damaged" / "specs" / "one").iterdir()
    assert kept.read_text() == "{"
    assert caplog.text.count(str(path)) == 1


def test_temporary_files_of_dead_processes_are_lost(tmp_path: Path) -> None:
    def leave(save_path: Path) -> None:
        save_path.write_text("half")
        (tmp_path / save_path.name.replace(".tmp", "-foreign.tmp")).write_text(
            "of an unknown writer"
        )
        left.append(save_path.name)
        raise OSError(28, "No space left on device")

    left: list[str] = []
    with pytest.raises(LabError, match="No space left"):
        atomic.write(tmp_path / "file", leave)
    mine = tmp_path / left[0]
    assert not mine.exists()
    place, _, rest = mine.name.split("-")
    dead = tmp_path / f"{place}-{2**22 + 7}-{rest}"  # above the largest pid
    for path in (mine, dead):
        path.write_text("half")
    atomic.sweep(tmp_path)
    assert mine.exists()  # this process may still write it
    assert not dead.exists()
    assert len(list(tmp_path.glob(".*-foreign.tmp"))) == 1
