"""The torture's own room: a mount namespace in which nothing outside of one folder can be written.

Malformed input names real paths. So the run is started anew without a network, where all file
systems are read-only but one in memory, which goes with its last process. Where the machine does
not let a user do that, the run has a folder for itself. Either way nothing may have appeared in the
checkout at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CONFINED = "SCLIP_LAB_TORTURE_CONFINED"  # of a run inside: why the root is not read-only, or ""
MEMORY = Path("/dev/shm")
# A W&B run offline talks to a process of its own, by the loopback device.
READ_ONLY = f"""
mount -t tmpfs -o size=75% none {MEMORY} || exit
for point in $(cut -d' ' -f5 /proc/self/mountinfo); do
  [ "$point" = {MEMORY} ] || mount -o remount,bind,ro "$point" 2>/dev/null
done
ip link set lo up 2>/dev/null
for place in {CHECKOUT} /tmp /dev; do
  if [ -w "$place" ]; then echo "$place can be written" >&2; exit 1; fi
done
"""
ENTER = """
mkdir -p "$HOME" "$TMPDIR" "$XDG_CACHE_HOME" "$ROOM"
cd "$ROOM" && exec "$@"
"""


def start(arguments: Sequence[str], mark: str) -> tuple[int, str | None, list[str]]:
    """Run ``python -m benchmarks.torture`` again in the room, and pass on what it prints.

    Returns:
        its exit status, the rest of the line that begins with ``mark``, and what appeared, changed
        or went in the checkout.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespace = ["unshare", *user, "--mount", "--propagation", "private", "--net", "sh", "-c"]
    reason, before, figures = _refused([*namespace, READ_ONLY]), _changes(), None
    shell = ["sh", "-c", ENTER] if reason else [*namespace, READ_ONLY + ENTER]
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as spare:
        room = Path(spare) if reason else MEMORY / "torture"
        # Deep enough that the paths which lead up end in the room.
        folders = {"ROOM": room / "a/b/work"}
        folders |= {name: room / name.lower() for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SCLIP_LAB_")}
        environment |= {name: str(folder) for name, folder in folders.items()} | {
            CONFINED: reason, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline",
        }  # fmt: skip
        with subprocess.Popen(
            [*shell, "sh", sys.executable, "-m", "benchmarks.torture", *arguments],
            env=environment, start_new_session=True,
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
    return process.returncode, figures, sorted(before ^ _changes())


def _changes() -> set[str]:
    """What is not committed in the checkout, line by line."""
    commands = (["git", "status", "--porcelain"], ["git", "diff"])
    texts = [subprocess.run(c, cwd=CHECKOUT, capture_output=True, text=True).stdout
             for c in commands]  # fmt: skip
    return set("\n".join(texts).splitlines())


def _refused(probe: Sequence[str]) -> str:
    """Why this machine gives no room with a read-only root; empty where it does."""
    try:
        trial = subprocess.run(probe, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return "" if trial.returncode == 0 else trial.stderr.strip() or "unshare failed"
