"""What verify and list say of folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sclip_lab.config.folders import conf_dir
from sclip_lab.config.registry import load_group
from sclip_lab.core.errors import LabError
from sclip_lab.data import file_dataset, prepare, sheet
from sclip_lab.data.census import Census
from sclip_lab.data.folder import Folder
from sclip_lab.data.verify import verify, vocabulary_faults
from sclip_lab.data.vocabulary import Vocabulary
from tests.data.originals import (
    SHARED,
    SIZE,
    cli,
    coco_download,
    grid,
    needs_shared,
    photo,
    png,
)

pytestmark = pytest.mark.usefixtures("data")


def small(root: Path, **settings: object) -> Folder:
    for stem in ("a", "b"):
        photo(root / f"images/{stem}.jpg")
        png(root / f"masks/{stem}.png", grid([1, 255], 0))
    words = Vocabulary("three", (("a",), ("b",), ("c",)))
    return Folder("small", root, "images", "masks", words, **settings)  # type: ignore[arg-type]


def test_verify_of_a_sound_folder(tmp_path: Path) -> None:
    report = verify(small(tmp_path, expected=2))
    assert report.problems == []
    assert report.warnings == ["1 classes occur in no mask: c"]
    assert any(fact.startswith("2 samples, 3 classes") for fact in report.facts)
    assert any(f"{1 / 48:.1%} of pixels" in fact for fact in report.facts)


def test_verify_lists_everything_that_is_wrong(tmp_path: Path) -> None:
    png(tmp_path / "masks/alone.png", grid([], 0))
    dataset = small(tmp_path, expected=[5, 6])
    png(tmp_path / "masks/a.png", grid([9], 0))
    png(tmp_path / "masks/b.png", grid([], 0)[:, 1:])
    problems = verify(dataset).problems
    assert len(problems) == 4
    assert problems[0] == "2 samples, the whole data set has 5 or 6"
    assert problems[1] == "mask without photo: alone.png"
    assert "a.png: id 9" in problems[2]
    assert "they must be equal" in problems[3]


def test_vocabulary_faults() -> None:
    assert vocabulary_faults(Vocabulary.named("sclip_coco_object")) == [
        "vocabulary 'sclip_coco_object': 'bed' names classes 0 and 60"
    ]
    assert vocabulary_faults(Vocabulary.named("sclip_context60")) == [
        "vocabulary 'sclip_context60': blank behind 'wood '"
    ]
    assert vocabulary_faults(Vocabulary.named("sclip_coco_object_fixed")) == []
    twice = Vocabulary("twice", (("cat", "Cat"), ("dog",)))
    assert vocabulary_faults(twice) == ["vocabulary 'twice': 'cat' names classes 0 and 0"]


@needs_shared
@pytest.mark.parametrize("name", ["coco_panoptic20", "coco_object_val2017"])
def test_the_real_folders_verify(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("verify", name, "--data", str(SHARED)) == 0
    out = capsys.readouterr().out
    assert f"{name}: ok" in out
    assert ("'bed' names classes 0 and 60" in out) == (name == "coco_object_val2017")


def test_verify_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("verify", "voc21") == 1
    assert "no folder" in capsys.readouterr().out
    coco_download(tmp_path / "from")
    cli("prepare", "coco_object", "--from", str(tmp_path / "from"))
    assert cli("verify", "coco_object") == 1
    assert "1 samples, the whole data set has 5000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dataset.limit=2"], "name the data sets to verify"),
        (["patchwork", "--config-dir", "/nope"], "--config-dir /nope: no such folder"),
    ],
)
def test_verify_of_nothing_is_no_success(words: list[str], says: str) -> None:
    with pytest.raises(LabError, match=says):
        cli("verify", *words)


def test_list_names_every_yaml(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    (data / "coco_object").mkdir(parents=True)
    assert cli("list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for path in (conf_dir() / "dataset").glob("[!_]*.yaml"):
        assert path.stem in lines
    assert lines["coco_object"].split()[1:4] == ["5000", "81", "yes"]
    assert lines["cityscapes"].split()[1:4] == ["500", "19", "no"]


@pytest.mark.parametrize("name", sorted(prepare.CONVERSIONS))
def test_every_conversion_has_its_yaml(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCLIP_LAB_DATA", "/somewhere")
    config = load_group("dataset", name)
    assert config["name"] == name
    assert config["root"].startswith("/somewhere/")
    Vocabulary.named(config["vocabulary"])


def test_verify_lists_each_of_many_faults(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty faults at once, of which no one hides another."""
    root = data / "coco_panoptic20"
    for index in range(40):
        photo(root / f"images/{index:02d}.jpg")
        png(root / f"masks/{index:02d}.png", grid([index], 0))
    for index in range(25):
        (root / f"masks/{index:02d}.png").write_bytes(b"")
    (root / "masks/30.png").unlink()
    (root / "masks/31.png").unlink()
    (root / "masks/31.png").symlink_to(root / "gone.png")
    png(root / "masks/alone.png", grid([], 0))
    png(root / "masks/32.png", grid([200], 0))
    (root / "images/02.jpg").unlink()
    (root / "images/02.jpg").symlink_to("nowhere.jpg")
    assert cli("verify", "coco_panoptic20") == 1
    out = capsys.readouterr().out
    assert out.count("the file is empty") == 20
    assert "... and 4 more like the last" in out
    for text in (
        "sample '30' has no mask: ",
        "31.png: a link to ",
        "gone.png, where nothing is",
        "02.jpg: a link to nowhere.jpg, where nothing is",
        "39 samples, the whole data set has 20",
        "mask without photo: alone.png",
        "32.png: id 200 on 1 pixels",
    ):
        assert text in out


def test_verify_writes_a_sheet_that_shows_a_swapped_palette(tmp_path: Path) -> None:
    """Two classes whose ids were exchanged differ in nothing but the picture and the shares."""
    words = Vocabulary("two", (("sky",), ("road",)))
    for name, ids in (("right", [0, 1]), ("swapped", [1, 0])):
        for stem in "ab":
            photo(tmp_path / name / f"images/{stem}.jpg")
            mask = np.full(SIZE, ids[1])
            mask[:2] = ids[0]
            png(tmp_path / name / f"masks/{stem}.png", mask)
    reports = {}
    for name in ("right", "swapped"):
        dataset = Folder(name, tmp_path / name, "images", "masks", words)
        reports[name] = report = verify(dataset, pictures=5)
        assert report.problems == []
        assert len(report.samples) == 2
        picture, page = sheet.write(tmp_path / "out", name, report.samples, report.census)
        assert f"<td>{100 * 2 / SIZE[0] if name == 'right' else 100 - 100 * 2 / SIZE[0]:.2f}%" in (
            page.read_text()
        )
        with Image.open(picture) as image:
            assert image.format == "PNG"
    painted = {n: sheet.painted(r.samples[0].mask, 255, 2) for n, r in reports.items()}
    np.testing.assert_array_equal(painted["right"][0, 0], painted["swapped"][-1, 0])
    assert (painted["right"][0, 0] != painted["right"][-1, 0]).any()


def test_census_counts_as_numpy_does(tmp_path: Path) -> None:
    words = Vocabulary("many", tuple((f"c{i}",) for i in range(300)))
    census = Census(words, 65535)
    draw = np.random.default_rng(0)
    masks = draw.choice([0, 5, 299, 65535], (4, 20, 30), p=[0.1, 0.1, 0.1, 0.7]).astype(np.uint16)
    for mask in masks:
        census.add(mask)
    assert census.ignored == (masks == 65535).sum()
    assert census.pixels[299] == (masks == 299).sum()
    assert census.occurrences[5] == sum((mask == 5).any() for mask in masks)
    assert "of pixels are ignored: scores are of the rest alone" in census.warnings()[0]
    assert census.share_ignored == pytest.approx((masks == 65535).mean())


def test_verify_takes_what_evaluate_takes(tmp_path: Path, data: Path) -> None:
    """A yaml with defaults of its own, and keys on the command line."""
    conf = tmp_path / "conf/dataset"
    conf.mkdir(parents=True)
    (conf / "small_world.yaml").write_text("defaults: [patchwork, _self_]\nlimit: 5\n")
    assert cli("verify", "small_world", "dataset.limit=2", "--config-dir", str(conf.parent)) == 0
    assert cli("verify", "patchwork", "dataset.limit=2") == 0
    with pytest.raises(LabError, match="only keys of dataset"):
        cli("verify", "patchwork", "protocol.stride=2")


def test_photos_that_exif_turns_are_said(tmp_path: Path) -> None:
    """Square photos: the masks fit, upright or not, and only a look tells."""
    words = Vocabulary("two", (("sky",), ("road",)))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    for stem in "ab":
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        image = Image.fromarray(noise)
        image.save(tmp_path / f"images/{stem}.jpg", **({"exif": exif} if stem == "b" else {}))
        png(tmp_path / f"masks/{stem}.png", np.indices((8, 8))[0] % 2)
    report = verify(Folder("square", tmp_path, "images", "masks", words))
    assert report.problems == []
    assert "1 of 2 photos are turned by their EXIF tags, such as b" in report.warnings[0]


def test_verify_reads_each_file_once(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the key, which hashes all files, nor a second look at the masks."""
    root = data / "coco_panoptic20"
    for stem in "ab":
        photo(root / f"images/{stem}.jpg")
        png(root / f"masks/{stem}.png", grid([1, 2], 0))
    contents: list[str] = []
    once = file_dataset.read_hashed

    def counting(path: Path, digest: str | None, what: str) -> bytes:
        contents.append(path.name)
        return once(path, digest, what)

    monkeypatch.setattr(file_dataset, "read_hashed", counting)
    monkeypatch.setattr(file_dataset, "file_digests", lambda *_: pytest.fail("hashed"))
    cli("verify", "coco_panoptic20")
    assert sorted(contents) == ["a.jpg", "a.png", "b.jpg", "b.png"]
