"""Counters that the ranks of a task share, in torch.distributed's store."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.progress import loading_torch

if TYPE_CHECKING:
    from torch.distributed import TCPStore

ANSWER_SECONDS = 30.0


class SharedCounters:
    """Named counters from 0, the same for all ranks of one launch. Torch is imported on connecting.

    Raises UserError, on connecting and on every use, where the store cannot be served, reached, or does not answer.
    """

    def __init__(self, environment: Environment, *, serves: bool, connect_seconds: float) -> None:
        self._environment = environment
        self._store = _connect(environment, serves, connect_seconds)

    def add(self, name: str, amount: int) -> int:
        """Adds to a counter and returns its value after that; `amount` 0 reads it.

        It waits for at most ANSWER_SECONDS: a host that vanished without closing its connections never answers.
        """
        key = f"promptsg/{self._environment.launch}/{name}"
        answer: Future[int] = Future()
        question = threading.Thread(
            target=_add, args=(self._store, key, amount, answer), daemon=True, name="store question"
        )
        question.start()
        try:
            failure = answer.exception(ANSWER_SECONDS)
        except concurrent.futures.TimeoutError as error:
            raise self._lost_error(f"no answer in {ANSWER_SECONDS:.0f} s") from error
        if failure is not None:
            raise self._lost_error(str(failure).splitlines()[0]) from failure
        return answer.result()

    def _lost_error(self, reason: str) -> UserError:
        return UserError(
            f"rank {self._environment.rank} lost the ranks' counter at {_place(self._environment)} ({reason}): the "
            "process that served it has ended; what is done stays done, run the same command again"
        )


def _add(store: TCPStore, key: str, amount: int, answer: Future[int]) -> None:
    try:
        answer.set_result(int(store.add(key, amount)))
    except Exception as error:  # noqa: BLE001 -- handed to the thread that waits for the answer
        answer.set_exception(error)


def _connect(environment: Environment, serves: bool, seconds: float) -> TCPStore:
    with loading_torch():
        from torch.distributed import DistError, TCPStore

    assert environment.address is not None and environment.port is not None
    try:
        return TCPStore(
            environment.address,
            environment.port,
            is_master=serves,
            wait_for_workers=False,
            timeout=timedelta(seconds=seconds),
        )
    except (DistError, RuntimeError) as error:
        what = "serve" if serves else "reach"
        advice = "set MASTER_PORT to a free port" if serves else "did rank 0 start?"
        raise UserError(
            f"rank {environment.rank} cannot {what} the ranks' counter at {_place(environment)}: "
            f"{str(error).splitlines()[0]}; {advice}"
        ) from error


def _place(environment: Environment) -> str:
    return f"{environment.address}:{environment.port}"
