"""A SLURM of one node on this computer: munged, slurmctld and slurmd, in a folder of their own."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from system_tools import tool

_START_S = 60
_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={home}/munge.sock,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={home}/controller
SlurmdSpoolDir={home}/node
SlurmctldPidFile={home}/controller.pid
SlurmdPidFile={home}/node.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
"""


@contextlib.contextmanager
def slurm() -> Iterator[None]:
    """Within this context SLURM_CONF names a SLURM that works; without the programs the test is skipped."""
    programs = {name: tool(name) for name in ("munged", "slurmctld", "slurmd")}
    home = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: it holds a socket
    home.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        for name in ("controller", "node"):
            (home / name).mkdir()
        key = home / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        conf = home / "slurm.conf"
        host = platform.node().partition(".")[0]
        conf.write_text(_CONF.format(host=host, home=home, ports=ports, user=getpass.getuser()), encoding="utf-8")
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = [f"--{option}={home}/munge.{ending}" for option, ending in files.items()]
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(conf)
        stack.callback(_restore, before)
        for words in (
            [programs["munged"], "--foreground", "--force", *munge],
            [programs["slurmctld"], "-D", "-f", str(conf)],
            [programs["slurmd"], "-D", "-f", str(conf)],
        ):
            log = stack.enter_context((home / f"{Path(words[0]).name}.txt").open("wb"))
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            if "munged" in words[0]:
                _wait(lambda: (home / "munge.sock").exists(), home)
        _wait(lambda: b"idle" in subprocess.run(["sinfo"], capture_output=True).stdout, home)
        yield


def _restore(before: str | None) -> None:
    if before is None:
        os.environ.pop("SLURM_CONF", None)
    else:
        os.environ["SLURM_CONF"] = before


def _wait(ready: object, home: Path) -> None:
    end = time.monotonic() + _START_S
    while not ready():  # type: ignore[operator]
        if time.monotonic() > end:
            logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(home.glob("*.txt")))
            raise RuntimeError(f"SLURM did not start:\n{logs}")
        time.sleep(0.2)
