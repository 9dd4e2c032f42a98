"""What verify and list say of folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from sclip_lab.cli.data import dataset_config
from sclip_lab.config.folders import conf_dir
from sclip_lab.data import prepare
from sclip_lab.data.folder import Folder
from sclip_lab.data.verify import verify, vocabulary_faults
from sclip_lab.data.vocabulary import Vocabulary
from tests.data.originals import (
    SHARED,
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
    dataset = small(tmp_path, expected=[5, 6])
    png(tmp_path / "masks/alone.png", grid([], 0))
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


def test_list_names_every_yaml(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    (data / "coco_object").mkdir(parents=True)
    assert cli("list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    for path in (conf_dir() / "dataset").glob("[!_]*.yaml"):
        assert path.stem in lines
    assert lines["coco_object"].split()[1:4] == ["5000", "81", "yes"]
    assert lines["cityscapes"].split()[1:4] == ["500", "19", "no"]


@pytest.mark.parametrize("name", sorted(prepare.CONVERSIONS))
def test_every_conversion_has_its_yaml(name: str) -> None:
    config = dataset_config(name, "/somewhere")
    assert config["name"] == name
    assert config["root"].startswith("/somewhere/")
    Vocabulary.named(config["vocabulary"])
