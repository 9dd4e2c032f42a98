"""A Slurm of one node on this machine, for as long as a test needs it. Nothing is installed."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("sbatch", "squeue", "srun", "slurmctld", "slurmd", "munged")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
SKIP = (
    "Slurm (sbatch, slurmctld, slurmd, munged) not found: "
    "apt-get install slurmctld slurmd slurm-client munge"
)

# No systemd, no cgroups, no accounting: what a container has.
CONF = """
ClusterName=sclip-lab-test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def running() -> Iterator[Path]:
    """Start the daemons and set SLURM_CONF; end them, and only them.

    Yields:
        the folder of their logs.
    """
    # Not pytest's tmp_path: a socket's path is limited to about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munge insists that everyone can reach its socket
    host = socket.gethostname().partition(".")[0]
    daemons: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", PATH)
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            for name in ("state", "spool"):
                (folder / name).mkdir()
            conf = CONF.format(host=host, user=getpass.getuser(), folder=folder, ports=_ports(2))
            (folder / "slurm.conf").write_text(conf)
            (folder / "munge.key").write_bytes(secrets.token_bytes(128))
            (folder / "munge.key").chmod(0o600)
            files = [f"--{n}-file={folder}/munge.{n}" for n in ("key", "pid", "log", "seed")]
            munged = ["munged", "--foreground", f"--socket={folder}/munge.socket", *files]
            daemons.append(_start(munged, folder))
            _wait((folder / "munge.socket").exists, daemons, folder)
            daemons.append(_start(["slurmctld", "-D"], folder))
            daemons.append(_start(["slurmd", "-D"], folder))
            _wait(_idle, daemons, folder)
            try:
                yield folder
            finally:  # a step outlives slurmd
                subprocess.run(["scancel", f"--user={getpass.getuser()}"], timeout=30)
                with contextlib.suppress(RuntimeError):
                    _wait(_empty, daemons, folder)
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in reversed(daemons):
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / f"{command[0]}.out").open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def _idle() -> bool:
    command = ["sinfo", "--noheader", "--format=%T"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() == "idle"


def _empty() -> bool:
    answer = subprocess.run(["squeue", "--me", "--noheader"], capture_output=True, text=True)
    return answer.returncode == 0 and not answer.stdout.strip()


def _wait(ready: Callable[[], bool], daemons: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline or any(d.poll() is not None for d in daemons):
            texts = [f"{p.name}: {p.read_text()[-1500:]}" for p in sorted(folder.glob("*.out"))]
            texts += [f"{p.name}: {p.read_text()[-1500:]}" for p in sorted(folder.glob("*.log"))]
            raise RuntimeError("Slurm does not start\n" + "\n".join(texts))
        time.sleep(0.2)


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
