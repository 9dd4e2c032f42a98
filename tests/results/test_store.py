"""Files that are there whole or not at all, and one error when they cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation.protocol import Protocol


def frame(image: str, pixels: int = 3) -> dict[str, object]:
    return {"image": image, "true": [0, 1], "predicted": [0, 0], "pixels": [pixels, 4]}


@pytest.fixture
def spec(backbone: Backbone, photos: Folder, protocol: Protocol) -> Spec:
    return Spec(lab.load_attention("csa"), backbone, protocol, photos)


@pytest.fixture
def store(tmp_path: Path, spec: Spec) -> Store:
    store = Store(tmp_path / "store")
    store.open(spec)
    return store


def files(store: Store) -> list[str]:
    """Everything in the store, hidden files included."""
    return sorted(p.name for p in store.root.rglob("*") if p.is_file())


def test_open_writes_the_cell_once(store: Store, spec: Spec) -> None:
    path = store.directory(spec) / "spec.json"
    before = path.read_bytes()
    record = json.loads(before)
    assert record["key"] == spec.key
    assert record["names"]["attention"] == "csa"
    assert record["class_names"] == ["sky", "grass", "dog", "cat", "wall"]
    assert record["images"] == ["0", "1", "2"]
    store.open(spec)
    assert path.read_bytes() == before  # its time of creation included


def test_append_and_done(store: Store, spec: Spec) -> None:
    assert store.done(spec) == set()
    store.append(spec, [])
    assert files(store) == ["spec.json"]
    store.append(spec, [frame("0"), frame("2")])
    store.append(spec, [frame("1")])
    assert store.done(spec) == {"0", "1", "2"}
    df = results.load(store.root)
    assert df["image"].tolist() == ["0", "0", "1", "1", "2", "2"]
    assert df["pixels"].tolist() == [3, 4] * 3
    assert [str(df[c].dtype) for c in ("true", "predicted", "pixels")] == ["int16"] * 2 + ["int64"]


def test_compact_keeps_every_image_once(store: Store, spec: Spec) -> None:
    store.append(spec, [frame("0"), frame("1")])
    store.append(spec, [frame("1"), frame("2")])  # another writer finished 1 as well
    before = results.load(store.root)
    assert len(before) == 6
    store.compact(spec)
    store.compact(spec)
    assert len(list(store.directory(spec).glob("rows-*.parquet"))) == 1
    pd.testing.assert_frame_equal(results.load(store.root), before)


def test_crash_while_compacting_leaves_duplicates_only(
    store: Store, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(spec, [frame("0"), frame("1")])
    store.append(spec, [frame("2")])
    before = results.load(store.root)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            store.compact(spec)
    assert len(list(store.directory(spec).glob("rows-*.parquet"))) == 3
    pd.testing.assert_frame_equal(results.load(store.root), before)


def test_diagnostics_are_kept_apart(store: Store, spec: Spec) -> None:
    assert store.diagnostics(spec).empty
    values = {"image": "0", "measure": ["a", "b"], "value": [0.5, 1.5]}
    store.append(spec, [values], "diagnostics")
    store.append(spec, [values], "diagnostics")
    assert store.diagnostics(spec)["value"].tolist() == [0.5, 1.5]
    assert store.done(spec) == set()


def test_diagnostics_of_layers_stand_beside_the_photos(store: Store, spec: Spec) -> None:
    store.append(spec, [{"image": "0", "measure": "a", "value": 0.5}], "diagnostics")
    single = {"image": "0", "measure": "a", "layer": [0, 0], "head": [-1, 1]}
    store.append(spec, [single | {"value": [0.1, np.nan]}], "diagnostics")
    store.append(spec, [single | {"value": [0.1, np.nan]}], "diagnostics")
    store.compact(spec, "diagnostics")
    stored = store.diagnostics(spec)
    assert sorted(stored[["layer", "head"]].to_numpy().tolist()) == [[-1, -1], [0, -1], [0, 1]]
    assert results.diagnostics(store.root)["value"].tolist() == [0.5]
    layers = results.diagnostics(store.root, layers=True)
    assert layers[["layer", "head", "value"]].to_numpy().tolist() == [[0, -1, 0.1]]
    assert layers.attrs["undefined"] == {"a": 1}


def test_damaged_file_is_named_and_set_aside(
    store: Store, spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.directory(spec) / "rows-1.parquet"
    path.write_bytes(b"PAR1")
    assert store.done(spec) == set()
    assert f"{path} has no seal" in caplog.text
    assert not path.exists()
    [moved] = (store.root / "damaged" / "specs" / spec.key).iterdir()
    assert moved.read_bytes() == b"PAR1"


@pytest.mark.parametrize("where", ["", "below"])
def test_blocked_root(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match=r"cannot write .*file.*another folder"):
        Store(tmp_path / "file" / where)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_read_only_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LabError, match=r"Permission denied.*another folder"):
        Store(tmp_path)


def test_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(LabError, match=r"Read-only file system.*another folder"):
        Store(tmp_path)


def test_disk_full(store: Store, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(spec, [frame("0")])
    before = files(store)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LabError, match=r"cannot write .*No space left on device") as caught:
        store.append(spec, [frame("1")])
    assert "\n" not in str(caught.value)
    assert files(store) == before


def test_disk_full_while_rows_are_written(
    store: Store, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(store)

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LabError, match="No space left"):
        store.append(spec, [frame("1")])
    assert files(store) == before


def test_disk_full_during_a_run(store: Store, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    from sclip_lab.evaluation import recorder

    monkeypatch.setattr(recorder, "FLUSH_IMAGES", 1)
    append, calls = Store.append, []

    def full_later(self: Store, *args: object, **kwargs: object) -> None:
        calls.append(args)
        if len(calls) > 2:
            with pytest.MonkeyPatch.context() as patch:
                error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                patch.setattr(os, "replace", _raise(error))
                append(self, *args, **kwargs)  # type: ignore[arg-type]
        append(self, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", full_later)
        with pytest.raises(LabError, match="No space left"):
            evaluate([spec], store, progress=False)
    assert store.done(spec) == {"0", "1"}
    assert evaluate([spec], store, progress=False)["image"].nunique() == 3


def _raise(error: OSError):  # type: ignore[no-untyped-def]
    def replace(*args: object) -> None:
        raise error

    return replace
