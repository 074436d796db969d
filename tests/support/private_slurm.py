"""A Slurm of one node for tests: munged, slurmctld and slurmd as root, with ports, sockets and state of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("sbatch", "scontrol", "squeue", "scancel", "slurmctld", "slurmd", "munged")
_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))

FINAL = frozenset(("CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"))

# cred_expire: a requeued job waits until its old credential has expired, two minutes by default.
_CONF = """\
ClusterName=private
SlurmctldHost={host}
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
MailProg=/bin/true
MaxArraySize=1001
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.txt
MpiDefault=none
SwitchType=switch/none
KillWait=5
MinJobAge=600
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN {gres}
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm; `variables` make the client commands find it."""

    folder: Path
    variables: Mapping[str, str]

    def call(self, *words: str) -> str:
        """Runs a client command and returns what it printed; a failure raises with its error output."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        done = subprocess.run(
            words, env={**environment, **self.variables}, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def states(self, job: int | str) -> dict[str, str]:
        """State by element (`12_3`; `12` for a job without an array), finished ones of the last minutes included."""
        text = self.call("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%i %T")
        return dict(line.split(maxsplit=1) for line in text.splitlines())

    def wait(self, job: int | str, seconds: float, until: frozenset[str] | None = None) -> dict[str, str]:
        """Waits until every element of the job has one of the states (any final one by default)."""
        limit = time.monotonic() + seconds
        while True:
            states = self.states(job)
            if states and set(states.values()) <= (until or FINAL):
                return states
            if time.monotonic() > limit:
                raise TimeoutError(f"job {job} after {seconds} s: {states}\n{self.call('squeue', '--long')}")
            time.sleep(0.3)


def missing_programs() -> list[str]:
    """What would have to be installed for `private_slurm`, or done, in words."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PLACES) is None]
    return missing if os.geteuid() == 0 else [*missing, "to be root"]


@contextmanager
def private_slurm(cpus: int = 4, gpus: int = 2) -> Iterator[Slurm]:
    """Starts a Slurm with `cpus` claimed cores and `gpus` made-up GPUs; stops all of it at the end.

    The cores are a claim (the node need not have them), so that an array's elements run side by side anywhere.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket's path has 107 characters at most
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _configure(folder, cpus, gpus)
        slurm = Slurm(folder, {"SLURM_CONF": str(folder / "slurm.conf")})
        for words in _daemons(folder):
            log = (folder / f"{Path(words[0]).name}.out").open("wb")
            environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
            daemons.append(
                subprocess.Popen(words, stdout=log, stderr=log, env={**environment, **slurm.variables}, cwd=folder)
            )
            if "munged" in words[0]:
                _until(lambda: (folder / "munge.socket").exists(), daemons, folder)
        _until(lambda: _is_idle(slurm), daemons, folder)
        yield slurm
    finally:
        _stop(folder, daemons)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, cpus: int, gpus: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    ctld_port, slurmd_port = _free_ports(2)
    host = socket.gethostname().split(".")[0]
    values = {"host": host, "ctld_port": ctld_port, "slurmd_port": slurmd_port, "folder": folder}
    (folder / "slurm.conf").write_text(_CONF.format(**values, cpus=cpus, gres=f"Gres=gpu:{gpus}" if gpus else ""))
    devices = [folder / f"gpu{number}" for number in range(gpus)]
    for device in devices:  # Slurm only asks whether they exist
        device.touch()
    (folder / "gres.conf").write_text("".join(f"NodeName={host} Name=gpu File={device}\n" for device in devices))


def _daemons(folder: Path) -> list[list[str]]:
    names = ("key-file", "pid-file", "log-file", "seed-file")
    munge = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in names]
    munge += [f"--socket={folder}/munge.socket"]
    paths = {name: str(shutil.which(name, path=_PLACES)) for name in PROGRAMS}
    conf = str(folder / "slurm.conf")
    return [
        [paths["munged"], "--foreground", "--force", "--num-threads=2", *munge],
        [paths["slurmctld"], "-D", "-c", "-f", conf],
        [paths["slurmd"], "-D", "-c", "-f", conf],
    ]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _is_idle(slurm: Slurm) -> bool:
    try:
        return slurm.call("sinfo", "--noheader", "--format=%T").strip() == "idle"
    except RuntimeError:
        return False  # slurmctld does not listen yet


def _until(
    ready: Callable[[], bool], daemons: Sequence[subprocess.Popen[bytes]], folder: Path, seconds: float = 30
) -> None:
    limit = time.monotonic() + seconds
    while not ready():
        dead = [str(d.args) for d in daemons if d.poll() is not None]
        if dead or time.monotonic() > limit:
            logs = "\n".join(f"{p}:\n{p.read_text(errors='replace')[-2000:]}" for p in folder.glob("*.[lo][ou][gt]"))
            raise RuntimeError(f"the private Slurm did not start ({dead or 'no answer'})\n{logs}")
        time.sleep(0.1)


def _stop(folder: Path, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Ends jobs first: a job's own processes outlive slurmd."""
    if len(daemons) == 3 and all(d.poll() is None for d in daemons):
        slurm = Slurm(folder, {"SLURM_CONF": str(folder / "slurm.conf")})
        try:
            slurm.call("scancel", "--quiet", "--user=root")
            slurm.call("scancel", "--quiet", "--full", "--signal=KILL", "--user=root")
            limit = time.monotonic() + 15
            while slurm.call("squeue", "--noheader").strip() and time.monotonic() < limit:
                time.sleep(0.2)
        except (RuntimeError, subprocess.TimeoutExpired):
            pass  # slurmctld is gone; its jobs end with their slurmd's steps
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
