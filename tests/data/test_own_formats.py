"""Own formats are read right or refused in one line, and `data guess` writes yaml for most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO as OfficialCoco

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data import polygons
from sclip_lab.data.base import Dataset, build
from sclip_lab.data.guess import guess
from tests.data import own_formats
from tests.data.own_formats import CASES, Case

READ = [name for name, one in CASES.items() if one.error is None]
REFUSED = [name for name, one in CASES.items() if one.error is not None]


def folder(one: Case, root: Path) -> tuple[dict, own_formats.Masks]:
    """The folder of a case: its yaml, and the masks that were drawn."""
    root.mkdir()
    masks = own_formats.drawn(one.classes)
    config = {"name": "own", "root": str(root), **one.write(root, masks)}
    return config, {stem: one.truth(mask) for stem, mask in masks.items()}


def read(dataset: Dataset) -> dict[str, np.ndarray]:
    assert len(dataset.key) == 64
    return {name: dataset[index].mask for index, name in enumerate(dataset.names)}


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert sum(one.guess for one in CASES.values()) >= 40


@pytest.mark.parametrize("name", READ)
def test_read_right(tmp_path: Path, name: str) -> None:
    one = CASES[name]
    config, truth = folder(one, tmp_path / "root")
    dataset = build(config)
    result = read(dataset)
    assert sorted(result) == sorted(one.names.get(stem, stem) for stem in truth)
    for stem, mask in truth.items():
        np.testing.assert_array_equal(result[one.names.get(stem, stem)], mask)
    limited = build({**config, "limit": 2})
    assert limited.names == dataset.names[:2]
    assert limited.key != dataset.key


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(tmp_path: Path, name: str) -> None:
    config, _ = folder(CASES[name], tmp_path / "root")
    with pytest.raises(LabError, match=CASES[name].error) as caught:
        read(build(config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name, one in CASES.items() if one.guess])
def test_guess_writes_a_working_yaml(tmp_path: Path, name: str) -> None:
    """Equal to what was drawn, but for the order of classes where nothing in the folder says it."""
    one = CASES[name]
    _, truth = folder(one, tmp_path / "root")
    target = tmp_path / "conf/dataset/mine.yaml"
    text = guess(tmp_path / "root", target)
    assert "sclip-lab data verify mine" in text
    config = yaml.safe_load(target.read_text(encoding="utf-8"))
    dataset = build(config)
    result = read(dataset)
    stems = {name.rpartition("/")[2]: name for name in result}
    places = {stem: one.names.get(stem, stem) for stem in truth}
    renamed = all(place in result for place in places.values())
    pairs: set[tuple[int, int]] = set()
    for index, stem in enumerate(sorted(truth)):
        key = places[stem] if renamed else stems.get(stem, sorted(result)[index])
        pairs |= set(zip(truth[stem].ravel().tolist(), result[key].ravel().tolist(), strict=True))
    assert len(result) == len(truth)
    # One drawn class is one class that was read, and void stays void.
    assert (
        len(pairs) == len({right for right, _ in pairs}) == len({observed for _, observed in pairs})
    )
    if "vocabulary" in config and "class 0" not in config["vocabulary"]:
        mentioned = own_formats.NAMES
        names = [*dataset.vocabulary.names]
        for right, observed in pairs:
            if right < len(mentioned) and observed < len(names) and one.classes <= 3:
                assert names[observed] == mentioned[right]


def test_polygons_are_drawn_as_pycocotools_draws_them(tmp_path: Path) -> None:
    """Corners between pixels, several parts, and a polygon that juts out of the photo."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        angles = np.sort(draw.uniform(0, 2 * np.pi, draw.integers(3, 12)))
        radius = draw.uniform(3, 25, len(angles))
        points = np.stack([16 + radius * np.cos(angles), 12 + radius * np.sin(angles)], -1)
        official = OfficialCoco()
        official.imgs = {1: {"height": 24, "width": 32}}
        annotation = {"image_id": 1, "segmentation": [points.ravel().tolist()]}
        expected = official.annToMask(annotation).astype(bool)
        np.testing.assert_array_equal(polygons.polygon(points.tolist(), (24, 32)), expected)


@pytest.mark.parametrize(
    ("yaml_name", "name"),
    [
        ("folder", "prefixes, two folders"),
        ("folder", "0 and 255"),
        ("folder", "Supervisely's bitmaps"),
        ("coco_json", "COCO's polygons of own categories"),
        ("huggingface", "parquet of several shards and splits"),
    ],
)
def test_the_yaml_of_each_reader_takes_its_keys(tmp_path: Path, yaml_name: str, name: str) -> None:
    one = CASES[name]
    config, truth = folder(one, tmp_path / "root")
    target, keys = config.pop("_target_"), {k: v for k, v in config.items() if k != "name"}
    with pytest.raises(LabError, match=r"dataset.root is missing: type dataset.root=\.\.\."):
        lab.load_dataset(yaml_name)
    dataset = lab.load_dataset(yaml_name, **keys)
    assert f"{type(dataset).__module__}.{type(dataset).__name__}" == target
    for stem, mask in read(dataset).items():
        np.testing.assert_array_equal(mask, truth[stem])


def test_guess_looks_at_every_mask(tmp_path: Path) -> None:
    """An id that one mask of many holds must not fall to the class that takes its number."""
    for index in range(80):
        ids = np.full((8, 8), (0, 5, 90)[index % 3])
        if index == 37:
            ids[:4] = 2  # a numbering of 0, 5, 90 alone would call it 90's class
        own_formats.photo(tmp_path / f"root/images/{index:02d}.jpg", size=(8, 8))
        own_formats.image(tmp_path / f"root/masks/{index:02d}.png", ids.astype(np.uint8))
    guess(tmp_path / "root", tmp_path / "conf/dataset/mine.yaml")
    config = yaml.safe_load((tmp_path / "conf/dataset/mine.yaml").read_text(encoding="utf-8"))
    assert config["label_map"] == {0: 0, 2: 1, 5: 2, 90: 3}
    mask = build(config)[37].mask
    assert mask[0, 0] == 1
    assert mask[7, 7] == 2
