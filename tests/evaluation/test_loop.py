"""The loop: the same numbers alone, together, in shards, after a crash; one error for bad data."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import sclip_lab as lab
from sclip_lab.core.errors import LabError, bug_behind
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation.loader import Loader, Photo
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation import pipeline
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.protocol import Protocol
from tests import photos as photo_files
from tests.conftest import ARCHITECTURE

VARIANTS = ("vanilla", "csa", "csa_mean", "csa_random", "early", "maskclip", "surgery")


def specs(
    backbone: Backbone, dataset: Dataset, protocol: Protocol, names: Sequence[str] = VARIANTS
) -> list[Spec]:
    return [Spec(lab.load_attention(name), backbone, protocol, dataset) for name in names]


def rows(df: pd.DataFrame, label: str | None = None) -> pd.DataFrame:
    """What was counted, without the columns whose presence depends on what else was loaded."""
    df = df.astype({"image": str, "attention": str})
    df = df if label is None else df[df["attention"] == label]
    columns = ["attention", "image", "true", "predicted", "pixels"]
    return df[columns].sort_values(columns).reset_index(drop=True)


def quiet(*args: object, **kwargs: object) -> pd.DataFrame:
    return evaluate(*args, progress=False, **kwargs)  # type: ignore[arg-type]


class Broken(Folder):
    """A folder whose sample at one index raises, as a machine that goes away would."""

    error: BaseException | None = None
    at = 0

    def __getitem__(self, index: int) -> Sample:
        if self.error is not None and index == self.at:
            raise self.error
        return super().__getitem__(index)


@pytest.fixture
def broken(photos: Folder) -> Broken:
    return Broken("five", photos.root, "images", "masks", photo_files.CLASSES)


def test_counts_every_pixel_but_void(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    df = quiet(specs(backbone, photos, protocol, ["csa"]), tmp_path / "store")
    for index, name in enumerate(photos.names):
        mask = photos[index].mask
        counted = df[df["image"] == name].groupby("true")["pixels"].sum()
        ids, areas = np.unique(mask[mask != 255], return_counts=True)
        assert counted.to_dict() == dict(zip(ids.tolist(), areas.tolist(), strict=True))


def test_photos_are_decoded_while_texts_are_embedded(
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = threading.Event()
    load, make_readout = Loader.load, pipeline.make_readout

    def loaded(loader: Loader, index: int) -> Photo:
        begun.set()
        return load(loader, index)

    def made(*args: Any) -> Readout:
        assert begun.wait(10)
        return make_readout(*args)

    monkeypatch.setattr(Loader, "load", loaded)
    monkeypatch.setattr(pipeline, "make_readout", made)
    assert len(quiet(specs(backbone, photos, protocol, ["csa"]), tmp_path / "store"))


def test_prediction_is_that_of_segment(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    df = quiet(specs(backbone, photos, protocol, ["csa"]), tmp_path / "store")
    for index, name in enumerate(photos.names):
        sample = photos[index]
        labels = lab.segment(
            backbone, sample.image, photos.vocabulary, lab.load_attention("csa"), protocol
        )
        labelled = sample.mask != 255
        pairs = np.stack([sample.mask[labelled], labels[labelled]])
        cells, areas = np.unique(pairs, axis=1, return_counts=True)
        counts = df[df["image"] == name][["true", "predicted", "pixels"]].to_numpy()
        np.testing.assert_array_equal(counts, np.vstack([cells, areas]).T)


def test_variants_do_not_depend_on_company_or_order(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    cells = specs(backbone, photos, protocol)
    together = quiet(cells, tmp_path / "together")
    backwards = quiet(cells[::-1], tmp_path / "backwards")
    pd.testing.assert_frame_equal(rows(together), rows(backwards))
    for cell in cells:
        alone = quiet([cell], tmp_path / f"alone-{cell.label}")
        pd.testing.assert_frame_equal(rows(alone), rows(together, cell.label))


def test_protocols_that_share_windows_share_the_pass(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hot = Protocol(**{**_fields(protocol), "logit_scale": 100.0, "prob_threshold": 0.3})
    first, second = (specs(backbone, photos, p, ["csa"])[0] for p in (protocol, hot))
    calls = _spy(backbone, monkeypatch)
    together = quiet([first, second], tmp_path / "together")
    assert len(calls) == len(photos)
    for cell in (first, second):
        alone = quiet([cell], tmp_path / cell.key)
        in_company = together[together["spec"] == cell.key[:12]]
        pd.testing.assert_frame_equal(rows(alone), rows(in_company))


def test_batches_agree_with_single_photos(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    cells = specs(backbone, photos, protocol, ["vanilla", "csa"])
    single = quiet(cells, tmp_path / "1", batch_images=1)
    batch = quiet(cells, tmp_path / "3", batch_images=3)
    keys = ["attention", "image", "true", "predicted"]
    both = rows(single).merge(rows(batch), on=keys, how="outer").fillna(0)
    moved = (both["pixels_x"] - both["pixels_y"]).abs().sum() / 2
    # Matrix products of another size round differently; only near-ties may turn.
    assert moved <= 1e-3 * single["pixels"].sum()


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([64, 96, 64, 96, 64], [2, 2, 1]),  # each waits for the next of its size
        ([64, 80, 96, 112, 128, 144, 160, 176, 64], [1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_photos_of_one_size_are_a_batch(
    sizes: list[int], batches: list[int], backbone: Backbone, protocol: Protocol, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    written = photo_files.write(tmp_path / "photos", [(64, width) for width in sizes])
    whole = Protocol(**{**_fields(protocol), "crop_size": None})
    cells = specs(backbone, photo_files.folder(written), whole, ["csa"])
    calls = _spy(backbone, monkeypatch)
    df = quiet(cells, tmp_path / "store", batch_images=2)
    # Eight photos may wait for their like: the first has gone on alone when another comes.
    assert calls == batches
    assert df["image"].nunique() == len(sizes)


@pytest.mark.parametrize("count", [2, 4])
def test_shards_add_up(backbone: Backbone, protocol: Protocol, tmp_path: Path, count: int) -> None:
    sizes = [(64, 64 + 2 * i) for i in range(5)]
    dataset = photo_files.folder(photo_files.write(tmp_path / "five", sizes))
    cells = specs(backbone, dataset, protocol, ["vanilla", "csa"])
    whole = quiet(cells, tmp_path / "whole")
    for index in reversed(range(count)):
        df = quiet(cells, tmp_path / "shards", shard=(index, count))
    pd.testing.assert_frame_equal(df, whole)


@pytest.mark.parametrize(("shard", "why"), [((2, 2), "0 .. 1"), ((3, 4), "has 3 images")])
def test_bad_shard(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path,
    shard: tuple[int, int], why: str,
) -> None:  # fmt: skip
    with pytest.raises(LabError, match=why):
        quiet(specs(backbone, photos, protocol, ["csa"]), tmp_path / "store", shard=shard)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_goes_on_after_an_abort(
    backbone: Backbone, broken: Broken, photos: Folder, protocol: Protocol, tmp_path: Path, at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    names = ["vanilla", "csa"]
    cells = specs(backbone, broken, protocol, names)
    whole = quiet(cells, tmp_path / "whole")
    broken.at, broken.error = at, MemoryError("the machine is full")
    with pytest.raises(MemoryError, match="is full"):
        quiet(cells, tmp_path / "store")
    assert Store(tmp_path / "store").done(cells[0]) == set(photos.names[:at])
    broken.error = None
    calls = _spy(backbone, monkeypatch)
    again = quiet(cells, tmp_path / "store")
    assert len(calls) == len(photos) - at
    pd.testing.assert_frame_equal(again, whole)


def test_a_bug_of_a_data_set_names_the_photo_and_keeps_its_traceback(
    backbone: Backbone, broken: Broken, protocol: Protocol, tmp_path: Path
) -> None:
    broken.at, broken.error = 1, KeyError("mask")
    cells = specs(backbone, broken, protocol, ["csa"])
    with pytest.raises(LabError, match=f"image {broken.names[1]}: KeyError: 'mask'") as raised:
        quiet(cells, tmp_path / "store")
    assert bug_behind(raised.value) is broken.error


def test_finished_cells_are_not_computed_again(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = tmp_path / "store"
    first = quiet(specs(backbone, photos, protocol, ["csa"]), store)
    calls = _spy(backbone, monkeypatch)
    again = quiet(specs(backbone, photos, protocol, ["csa"]), store)
    pd.testing.assert_frame_equal(first, again)
    assert not calls
    # A twin under another name is the same cell, and a new variant joins without the old one.
    twin = Spec(lab.load_attention("csa"), backbone, protocol, photos, label="renamed")
    quiet([twin, *specs(backbone, photos, protocol, ["vanilla"])], store)
    assert len(calls) == len(photos)


KILLED = """
import sys, time
from pathlib import Path
import tests.evaluation.test_loop as test
from sclip_lab.evaluation import recorder

embed = test.Backbone.embed
def slow(*args):
    time.sleep(0.5)
    return embed(*args)
test.Backbone.embed = slow
recorder.FLUSH_IMAGES = 1  # each photo is written at once
test.quiet(test.killed_cells(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def killed_cells(root: Path) -> list[Spec]:
    """The same in this process and in the one that is killed."""
    backbone = load_backbone(architecture=ARCHITECTURE, seed=0, device="cpu")
    protocol = Protocol(short_side=None, crop_size=64, stride=32, templates=("{}",))
    return specs(backbone, photo_files.folder(root), protocol, ["vanilla", "csa"])


@pytest.mark.slow
def test_goes_on_after_kill_9(tmp_path: Path) -> None:
    root = photo_files.write(tmp_path / "photos", [(64, 64 + i) for i in range(8)])
    store = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(root), str(store)])
    deadline = time.monotonic() + 120
    while len(list(store.glob("specs/*/rows-*"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    cells = killed_cells(root)
    assert 0 < len(Store(store).done(cells[0])) < 8
    whole = quiet(cells, tmp_path / "whole")
    pd.testing.assert_frame_equal(quiet(cells, store), whole)


def _truncate(root: Path) -> None:
    path = root / "images/2.jpg"
    path.write_bytes(path.read_bytes()[:-300])


def _foreign_id(root: Path) -> None:
    Image.fromarray(np.full((90, 66), 7, np.uint8)).save(root / "masks/2.png")


def _other_size(root: Path) -> None:
    Image.fromarray(np.zeros((90, 65), np.uint8)).save(root / "masks/2.png")


@pytest.mark.parametrize(
    ("damage", "culprit"),
    [
        (_truncate, "images/2.jpg"),
        (_foreign_id, "masks/2.png"),
        (_other_size, "masks/2.png"),
        (lambda root: (root / "masks/2.png").write_bytes(b""), "masks/2.png"),
    ],
    ids=["truncated photo", "id outside", "sizes differ", "0-byte mask"],
)
def test_bad_data_keep_what_was_computed(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path,
    damage: Callable[[Path], object], culprit: str,
) -> None:  # fmt: skip
    [cell] = specs(backbone, photos, protocol, ["csa"])
    cell.key  # noqa: B018 - the digest is of the sound folder, as when a file rots during a run
    damage(photos.root)
    with pytest.raises(LabError) as caught:
        quiet([cell], tmp_path / "store")
    assert culprit in str(caught.value)
    assert "\n" not in str(caught.value)
    assert Store(tmp_path / "store").done(cell) == {"0", "1"}


def test_photo_without_mask(tmp_path: Path) -> None:
    root = photo_files.write(tmp_path)
    (root / "masks/1.png").unlink()
    with pytest.raises(LabError, match=r"no mask.*1\.png"):
        photo_files.folder(root)


class Wrong(Dataset):
    """A data set written by hand that gives what its vocabulary does not allow."""

    name = "wrong"
    vocabulary = photo_files.CLASSES
    names = property(lambda self: ["only"])  # type: ignore[assignment]

    def __init__(self, mask: np.ndarray, sample: str = "only") -> None:
        self.mask, self.sample = mask, sample

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.sample, np.zeros((64, 64, 3), np.uint8), self.mask)

    @property
    def key(self) -> str:
        return "0" * 64


@pytest.mark.parametrize("mask", [np.full((64, 64), 5), np.zeros((64, 63), int)])
def test_bad_mask_of_a_data_set_in_code(
    backbone: Backbone, protocol: Protocol, tmp_path: Path, mask: np.ndarray
) -> None:
    with pytest.raises(LabError, match="data set wrong, image only"):
        quiet(specs(backbone, Wrong(mask.astype(np.uint8)), protocol, ["csa"]), tmp_path)


def test_names_of_samples_that_differ_from_names(
    backbone: Backbone, protocol: Protocol, tmp_path: Path
) -> None:
    other = Wrong(np.zeros((64, 64), np.uint8), "only.png")
    says = "data set wrong, image only: its sample is named 'only.png'"
    with pytest.raises(LabError, match=says):
        quiet(specs(backbone, other, protocol, ["csa"]), tmp_path)


def test_image_of_void_alone_is_finished(
    backbone: Backbone, protocol: Protocol, tmp_path: Path
) -> None:
    void = Wrong(np.full((64, 64), 255, np.uint8))
    [cell] = specs(backbone, void, protocol, ["csa"])
    df = quiet([cell], tmp_path)
    assert df["pixels"].sum() == 0
    assert Store(tmp_path).done(cell) == {"only"}


def test_layer_out_of_range(backbone: Backbone, photos: Folder, protocol: Protocol) -> None:
    with pytest.raises(LabError, match=r"attention 'csa'.*12"):
        Spec(lab.load_attention("csa", layers=[12]), backbone, protocol, photos)


def test_empty_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(LabError, match=r"none\.txt.*empty"):
        Vocabulary.read(tmp_path / "none.txt")


def test_vocabulary_of_another_size(backbone: Backbone, photos: Folder, protocol: Protocol) -> None:
    other = Protocol(**{**_fields(protocol), "vocabulary": "sclip_voc21"})
    with pytest.raises(LabError, match=r"sclip_voc21.*21.*five.*5"):
        specs(backbone, photos, other, ["csa"])


def test_weights_that_are_not_finite(backbone: Backbone, architecture: dict[str, object]) -> None:
    weights = {k: v.clone() for k, v in backbone.model.state_dict().items()}
    weights["visual.proj"][0, 0] = torch.nan
    with pytest.raises(LabError, match=r"visual\.proj contains NaN"):
        load_backbone(architecture=architecture, state_dict=weights)


def test_activations_that_are_not_finite(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    cold = Spec(lab.load_attention("csa", temperature=1e-45), backbone, protocol, photos, "cold")
    with pytest.raises(LabError, match=f"cold on image {photos.names[0]}: patch logits contain"):
        quiet([cold], tmp_path / "store")


def test_no_specs(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no specs"):
        quiet([], tmp_path)


def _fields(protocol: Protocol) -> dict[str, object]:
    return {**protocol.config, "name": "other"}


def _spy(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows of each call of the network from now on."""
    calls: list[int] = []
    embed = backbone.embed

    def counting(images: torch.Tensor, rule: str | None = None) -> torch.Tensor:
        calls.append(len(images))
        return embed(images, rule)

    monkeypatch.setattr(backbone, "embed", counting)
    return calls
