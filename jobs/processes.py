"""Other processes: how many cores there are for workers, and how workers and commands end with whom they work for."""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from jobs.logs import log_label, setup_logging

_CLOSE_SECONDS = 3.0
_PROGRAM = __name__.partition(".")[0]
_commands: set[subprocess.Popen[bytes]] = set()  # those that this process has started and not ended


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a worker of a fork server is to have as its parent has it now, and not as the server had it at its start.

    `variables` are those of the environment. `log_level` is that of the root, `own_log_level` that of this program, and
    `label` what its lines begin with. The working folder is not among them: multiprocessing hands it on.
    """

    variables: Mapping[str, str]
    log_level: int
    own_log_level: int
    label: str = ""

    @classmethod
    def of_this_process(cls) -> Surroundings:
        """Those of whoever calls it."""
        root, own = logging.getLogger(), logging.getLogger(_PROGRAM)
        return cls(
            variables=dict(os.environ),
            log_level=root.level,
            own_log_level=own.getEffectiveLevel(),
            label=log_label(),
        )

    def take_over(self) -> None:
        """Makes them those of this process, whose log goes to standard error."""
        for name in os.environ.keys() - self.variables.keys():
            del os.environ[name]
        os.environ.update(self.variables)
        setup_logging(self.label)
        logging.getLogger().setLevel(self.log_level)
        logging.getLogger(_PROGRAM).setLevel(self.own_log_level)


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinities


def start_worker() -> None:
    """To be called once in each worker process, which then leaves Ctrl-C to its parent and ends when that has ended.

    So do the commands that it has started. The parent is the process that the work is for, also where a fork server has
    started the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a process of multiprocessing is a worker"
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True, name="parent watch").start()


def start_command(command: str) -> subprocess.Popen[bytes]:
    """Starts a shell command, whose output is to be read. Call `end_command` in any case.

    It has a session of its own, so that whatever it starts can be ended with it. Raises OSError.
    """
    started = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, bufsize=0, start_new_session=True)
    _commands.add(started)
    return started


def end_command(command: subprocess.Popen[bytes]) -> None:
    """Ends a command, and what it has started, unless it has ended by itself."""
    _kill(command)
    command.wait()
    _commands.discard(command)


def end_commands() -> None:
    """Ends all commands of this process, before it ends itself without leaving its `with` blocks.

    A command that writes nothing would not notice that nobody reads it.
    """
    for command in tuple(_commands):
        _kill(command)


atexit.register(end_commands)


def end_pool(pool: ProcessPoolExecutor) -> None:
    """Ends a pool's processes: by asking them, and by force those that have not ended after a few seconds.

    What has not begun is not done. A process that is stopped (SIGSTOP) or hangs would keep this process for ever.
    """
    processes = list((pool._processes or {}).values())  # there is no public way before Python 3.14
    pool.shutdown(wait=False, cancel_futures=True)
    end_processes(processes)


def end_processes(processes: Collection[BaseProcess]) -> None:
    """Waits for the end of processes that were asked to end, and ends by force those that do not."""
    _join(processes)
    for process in processes:
        if process.is_alive():
            process.kill()
    _join(processes)


def _join(processes: Collection[BaseProcess]) -> None:
    until = time.monotonic() + _CLOSE_SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))


def _kill(command: subprocess.Popen[bytes]) -> None:
    if command.returncode is None:  # until somebody waits for it, no other process gets its number
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses it where all have ended
            os.killpg(command.pid, signal.SIGKILL)


def _end_with(parent_sentinel: int) -> None:
    """Waits for the end of a pipe that the parent holds open: it also closes where nobody collects a dead parent."""
    wait([parent_sentinel])
    end_commands()
    os._exit(1)
