"""Vocabularies: the official lists letter for letter, and what the corrected ones change."""

from __future__ import annotations

from pathlib import Path

import pytest

from sclip_lab.core.errors import LabError
from sclip_lab.data.vocabulary import DIRECTORY, Vocabulary

SHARED = Path(__file__).parents[3] / "shared/vocabularies"
ALL = sorted(path.stem for path in DIRECTORY.glob("*.txt"))
OFFICIAL = [
    "sclip_ade20k", "sclip_city_scapes", "sclip_coco_object", "sclip_coco_stuff",
    "sclip_context59", "sclip_context60", "sclip_voc20", "sclip_voc21",
]  # fmt: skip


def squeezed(name: str) -> str:
    return name.replace(" ", "")


@pytest.mark.parametrize("name", ALL)
def test_every_list_is_usable(name: str) -> None:
    vocabulary = Vocabulary.named(name)
    assert vocabulary.name == name
    assert vocabulary.num_classes == len(vocabulary.names)
    assert len(vocabulary.queries) == len(vocabulary.query_classes)
    assert sorted(set(vocabulary.query_classes)) == list(range(vocabulary.num_classes))
    assert vocabulary.query_classes == sorted(vocabulary.query_classes)


@pytest.mark.parametrize(
    ("name", "classes", "queries"),
    [  # the counts of the released evaluation: docs/field.md 2.1
        ("sclip_voc21", 21, 56),
        ("sclip_voc20", 20, 30),
        ("sclip_coco_object", 81, 113),
        ("sclip_context60", 60, 60),
        ("sclip_context59", 59, 59),
        ("sclip_coco_stuff", 171, 171),
        ("sclip_city_scapes", 19, 19),
        ("sclip_ade20k", 150, 150),
        ("coco_panoptic", 133, 133),
    ],
)
def test_counts(name: str, classes: int, queries: int) -> None:
    vocabulary = Vocabulary.named(name)
    assert vocabulary.num_classes == classes
    assert len(vocabulary.queries) == queries


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_lists_are_the_shared_ones(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the official lists of ../shared/vocabularies are not here")
    ours, theirs = ((d / f"{name}.txt").read_text() for d in (DIRECTORY, SHARED))
    assert ours.rstrip("\n") == theirs.rstrip("\n")


def test_official_faults_are_kept() -> None:
    assert Vocabulary.named("sclip_context60").queries[-1] == "wood "
    assert Vocabulary.named("sclip_context60").names[-1] == "wood"
    background, *objects = Vocabulary.named("sclip_coco_object").classes
    assert "bed" in background
    assert ("bed",) in objects


@pytest.mark.parametrize("name", OFFICIAL)
def test_fixed_lists_differ_in_blanks_and_bed_alone(name: str) -> None:
    official, fixed = Vocabulary.named(name), Vocabulary.named(f"{name}_fixed")
    for index, (before, after) in enumerate(zip(official.classes, fixed.classes, strict=True)):
        expected = [squeezed(q) for q in before]
        if name == "sclip_coco_object" and index == 0:
            expected.remove("bed")
        assert [squeezed(q) for q in after] == expected
        assert all(q == q.strip() for q in after)
    assert len(set(fixed.queries)) == len(fixed.queries)


@pytest.mark.parametrize("name", [name for name in ALL if name.endswith("_plain")])
def test_plain_lists_have_one_name_a_class(name: str) -> None:
    vocabulary = Vocabulary.named(name)
    assert len(set(vocabulary.queries)) == len(vocabulary.queries) == vocabulary.num_classes
    official = f"sclip_{name.removesuffix('_plain').replace('cityscapes', 'city_scapes')}"
    assert vocabulary.num_classes == Vocabulary.named(official).num_classes
    if name.startswith(("voc21", "context60", "coco_object")):
        assert vocabulary.names[0] == "background"


def test_read_keeps_blanks_behind_and_drops_those_before(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("cat,  house cat \ndog\n\n")
    vocabulary = Vocabulary.named(str(path))
    assert vocabulary.classes == (("cat", "house cat "), ("dog",))
    assert vocabulary.query_classes == [0, 0, 1]
    same = Vocabulary("other name", vocabulary.classes)
    assert same.key == vocabulary.key
    assert Vocabulary("mine", (("dog",), ("cat", "house cat "))).key != same.key


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"mine\.txt: vocabulary 'mine' is empty"),
        ("\n\n", "is empty"),
        ("cat\n\ndog\n", "class 1: empty name"),
        ("cat, \n", "class 0: empty name"),
        (None, r"mine\.txt: no such file"),
    ],
)
def test_bad_lists(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LabError, match=message):
        Vocabulary.named(str(path))


def test_unknown_list_suggests_a_near_one() -> None:
    with pytest.raises(
        LabError, match=r"unknown vocabulary 'sclip_voc22'; did you mean .*sclip_voc2"
    ):
        Vocabulary.named("sclip_voc22")


# --- names as people write them -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.txt", "cat, kitten\ndog\n"),
        ("v.txt", "\ufeffcat, kitten\r\ndog\r\n"),
        ("v.txt", '[["cat", "kitten"], "dog"]'),
        ("v.json", '["cat,kitten", "dog"]'),
        ("v.json", '{"0": "cat, kitten", "1": "dog"}'),
        ("v.json", '{"dog": 1, "cat, kitten": 0}'),
        ("v.json", '{"categories": [{"id": 1, "name": "dog"}, {"id": 0, "name": "cat, kitten"}]}'),
        ("v.csv", 'Pixel Value, Class\n1, dog\n0,"cat, kitten"\n'),
        ("v.csv", 'name,r,g,b\n"cat, kitten",0,0,0\ndog,1,1,1\n'),
        ("v.csv", '0,"cat, kitten"\n1,dog\n'),
        ("v.csv", 'label,name\n0,"cat, kitten"\n1,dog\n'),
        ("v.csv", 'class,id,name\n7,1,dog\n8,0,"cat, kitten"\n'),
        ("v.csv", "id;name\n1;dog\n0;cat, kitten\n"),
        ("v.tsv", "id\tname\n0\tcat, kitten\n1\tdog\n"),
        ("obj.names", "cat, kitten\ndog\n"),
        ("v.csv", '"cat, kitten"\ndog\n'),
    ],
)
def test_forms_of_a_list(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert Vocabulary.named(str(tmp_path / name)).classes == (("cat", "kitten"), ("dog",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0: cat\n1: dog\n", r"class 0 is '0: cat'; write the name without its number"),
        ("cat\n1. dog\n", r"class 1 is '1. dog'; write the name without its number"),
        ("0 cat\n1 dog\n", "every line begins with a number"),
        ("1 cat\n2 dog\n", "every line begins with a number"),
        ('"cat"\n"dog"\n', "write it without quotes"),
        ("<!DOCTYPE html>\n<p>cat</p>\n", "the file is markup"),
        ("- cat\n- dog\n", "without the mark of a list"),
        ("cat 128 0 0\ndog 0 128 0\n", "colours belong into dataset.palette"),
        ('"cat, kitten"\ndog\n', "write it without quotes; a comma separates"),
        ("cat;kitten\ndog\n", "separate synonyms by commas"),
        ("cat|kitten\ndog\n", "separate synonyms by commas"),
        ("(0) cat\n(1) dog\n", "without its number"),
        ("cat: 0\ncow: 0\n", "without its number"),
        ("n02121808 cat\nn02084071 dog\n", "without its number"),
        ("cat 0\ndog 1\n", "every line ends with a number"),
        ("0\n1\n", "every class has a number"),
        ("0,cat\n1,dog\n", "every class has a number, such as '0'"),
        ("cat,128,64,0\ndog,1,2,3\n", "every class has a number, such as '128'"),
        ("name\ncat\n", "the first line, 'name', heads a table"),
        ("id,name\n0,cat\n", "heads a table"),
        ("0 cat\n2 dog\n5 cow\n", "every line begins with a number"),
        ("cat (0)\ndog (1)\n", "every line ends with a number"),
        ("128 0 0 cat\n0 128 0 dog\n", "colours belong into dataset.palette"),
        ("cat:\ndog:\n", "without the sign at its end"),
        ("\u2018cat\u2019\ndog\n", "write it without quotes"),
        ('{"names": ["cat", "dog"]}', r"give a list of names, \{id: name\} or \{name: id\}"),
        ("\u201ccat\u201d\ndog\n", "write it without quotes"),
        ("item {\n  id: 1\n}\n", "markup or code"),
        ("% names\ncat\n", "write no comments"),
        ("# my classes\ncat\n", "write no comments"),
        ("cat # a pet\n", "write no comments"),
        ("alarm_clock\n", "write 'alarm clock', with blanks"),
        ("alarm\u00a0clock\n", r"U\+00A0; a plain blank is meant"),
        ('["cat", null]', "class 1: None is no name; put names like it in quotes"),
        ('["cat"', "cannot be read as JSON"),
        ('{"0": "cat", "0": "dog"}', "'0' stands there twice"),
        ('{"1": "cat", "2": "dog"}', r"ids are 1..2 for 2 classes, not 0..1"),
    ],
)
def test_what_is_surely_not_meant(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LabError, match=rf"mine\.txt: .*{message}"):
        Vocabulary.named(str(path))


@pytest.mark.parametrize(
    "name", ["C++", "C#", "NA", "null", "nan", "3.5 inch disk", "7 eleven", "rock 'n' roll", "a/b"]
)
def test_names_that_only_look_strange(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(f"cat\n{name}\n", encoding="utf-8")
    assert Vocabulary.named(str(path)).names == ["cat", name]


def test_a_list_of_847_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(f"thing {index}" for index in range(847)))
    assert Vocabulary.named(str(path)).num_classes == 847


def test_names_in_memory_keep_their_ids() -> None:
    for names in ({"dog": 1, "cat": 0}, {1: "dog", 0: "cat"}, ["cat", "dog"]):
        assert Vocabulary.typed(names).names == ["cat", "dog"]
        assert Vocabulary.of("mine", names).names == ["cat", "dog"]
    with pytest.raises(LabError, match="a set, which has no order; give a list"):
        Vocabulary.typed({"cat", "dog"})
    with pytest.raises(LabError, match="every class has a number"):
        Vocabulary.typed(["7"])
    assert Vocabulary.typed(["cat", "7"]).names == ["cat", "7"]


def test_a_column_of_synonyms_is_not_ignored(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("name,synonyms\ncat,kitten\ndog,puppy\n")
    with pytest.raises(LabError, match="column 'synonyms' is not read"):
        Vocabulary.read(tmp_path / "v.csv")
