"""The torture's own room: a mount namespace in which nothing outside of one folder can be written.

Malformed input names real paths. So the run is started anew without a network, where all file
systems are read-only but one in memory, which goes with its last process. Where the machine does
not let a user do that, the run has a folder for itself, and the makers of cases leave out every
path that leads out of it. Either way nothing may have appeared in the checkout at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
ROOM = "SCLIP_LAB_TORTURE_ROOM"  # the folder, set for the run inside
CONFINED = "SCLIP_LAB_TORTURE_CONFINED"  # why the root is not read-only; empty where it is
MEMORY = Path("/dev/shm")
_IGNORED = {".git", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"}


def inside() -> bool:
    """Whether this process runs in the room."""
    return ROOM in os.environ


def loose() -> str:
    """Why paths that lead out of the room can be written; empty where they cannot."""
    return os.environ.get(CONFINED, "not started in a room of its own")


def start(arguments: Sequence[str], mark: str) -> tuple[int, str | None, list[str]]:
    """Run ``python -m benchmarks.torture`` again in the room, and pass on what it prints.

    Returns:
        its exit status, the rest of the line that begins with ``mark``, and what appeared, changed
        or went in the checkout.
    """
    before = listing()
    reason = _refused()
    folder = MEMORY if not reason else Path(tempfile.mkdtemp(prefix="torture-"))
    room = folder if reason else folder / "torture"
    # Deep enough that the paths which lead up end in the room.
    work = room / "a" / "b" / "work"
    folders = {name: str(room / name.lower()) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith("SCLIP_LAB_")
    }
    environment = inherited | folders | {
        ROOM: str(room), CONFINED: reason, "PYTHONPATH": str(CHECKOUT), "PWD": str(work),
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
    }  # fmt: skip
    line = [sys.executable, "-m", "benchmarks.torture", *arguments]
    line = line if reason else [*_namespace(), *line]
    figures = None
    try:
        with subprocess.Popen(
            line, env=environment, cwd=CHECKOUT, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                for text in process.stdout or ():
                    if text.startswith(mark):
                        figures = text.removeprefix(mark)
                    else:
                        print(text, end="", flush=True)
            finally:  # end whatever a case left running
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
    finally:
        if reason:
            shutil.rmtree(folder, ignore_errors=True)
    after = listing()
    changed = sorted(set(before.items()) ^ set(after.items()))
    return process.returncode, figures, sorted({name for name, _ in changed})


def enter() -> Path:
    """Make the room, and change into its working folder; for the run inside.

    Returns:
        the working folder.
    """
    room = Path(os.environ[ROOM])
    if not loose():
        _only_writable(MEMORY)
    room.mkdir(exist_ok=True)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        Path(os.environ[name]).mkdir(exist_ok=True)
    tempfile.tempdir = None  # asked again from TMPDIR
    work = room / "a" / "b" / "work"
    work.mkdir(parents=True)
    os.chdir(work)
    return work


def listing() -> dict[str, int]:
    """Every file and folder of the checkout, with the time of its last change (0 for folders)."""
    changes = {}
    for folder, folders, names in os.walk(CHECKOUT):
        folders[:] = [name for name in folders if name not in _IGNORED and name != ".venv"]
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                changed = 0 if name in folders else os.lstat(path).st_mtime_ns
                changes[os.path.relpath(path, CHECKOUT)] = changed
    return changes


def _namespace() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--mount", "--propagation", "private", "--net"]


def _refused() -> str:
    """Why this machine gives no room with a read-only root; empty where it does."""
    probe = f"mount -t tmpfs none {MEMORY} && mount -o remount,bind,ro /"
    try:
        trial = subprocess.run(
            [*_namespace(), "sh", "-c", probe], capture_output=True, text=True, check=False
        )
    except OSError as error:
        return str(error)
    return "" if trial.returncode == 0 else trial.stderr.strip() or "unshare failed"


def _only_writable(place: Path) -> None:
    """Mount a fresh file system in memory at ``place``, and make all others read-only. Devices can
    be written all the same, but none can be made or replaced."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=75%", "none", str(place)], check=True)
    for point, options in _mounts():
        if point != str(place):
            flags = ",".join(
                ["remount", "bind", "ro", *(o for o in options if o not in ("rw", "ro"))]
            )
            subprocess.run(["mount", "-o", flags, point], capture_output=True, check=False)
    with contextlib.suppress(OSError):  # a W&B run offline talks to a process of its own
        _loopback_up()
    for path in (CHECKOUT, Path.home(), Path("/tmp"), Path("/dev")):
        with contextlib.suppress(OSError):
            handle, name = tempfile.mkstemp(dir=path)
            os.close(handle)
            os.unlink(name)
            raise RuntimeError(f"{path} can be written from the torture's room")


def _mounts() -> Iterator[tuple[str, list[str]]]:
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        for line in lines:
            fields = line.split()
            point = fields[4].encode().decode("unicode_escape")
            yield point, fields[5].split(",")


def _loopback_up() -> None:
    """Do what ``ip link set lo up`` does, for machines without ``ip``."""
    request, up = 0x8914, 1  # SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, request, struct.pack("16sh14x", b"lo", up))
