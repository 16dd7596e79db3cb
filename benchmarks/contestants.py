"""Contestants in processes of their own, which take turns on one machine.

Rounds are interleaved, A, B, C, A, B, C, ..., so that a machine's noise and drift meet all alike. Every
contestant has a process of its own, since thread settings and imports are a process's; while another one has
its turn the process and its children are stopped, so that no idle worker spins at the other's expense.
"""

import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Any, Self

import torch
from measurement import progress

Turn = Callable[[], dict[str, float]]
# setting -> what is entered to be ready, and then gives the turns
Maker = Callable[[Any], AbstractContextManager[Turn]]
PATIENCE = 30.0  # seconds, for a contestant to close its environments


class ContestantError(RuntimeError):
    """A contestant failed; the message is its traceback."""


class Contestant:
    """A process that is stopped unless it has its turn.

    Args:
        maker: makes the contestant, in its process.
        setting: what the maker takes.
        threads: of torch; 0 leaves torch's default.

    Raises:
        ContestantError: it could not be made.
    """

    def __init__(self, maker: Maker, setting: Any, threads: int = 0):
        context = multiprocessing.get_context("spawn")
        self._pipe, its_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(its_end, maker, setting, threads))
        self._process.start()
        its_end.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def turn(self) -> dict[str, float]:
        """Let it have a turn, and return what that measured.

        Raises:
            ContestantError: the turn failed.
        """
        self._signal(signal.SIGCONT)
        self._pipe.send(True)
        result = self._receive()
        self._signal(signal.SIGSTOP)
        return result

    def close(self) -> None:
        """End the process and its children."""
        self._signal(signal.SIGCONT)
        with suppress(OSError):
            self._pipe.send(False)
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._signal(signal.SIGKILL)
            self._process.join()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        with suppress(ProcessLookupError):  # it is gone, or has not made its group yet
            os.killpg(self._process.pid, number)

    def _receive(self) -> dict[str, float]:
        try:
            result = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise ContestantError(f"the process ended with exit code {self._process.exitcode}") from error
        if isinstance(result, str):
            raise ContestantError(result)
        return result


def _serve(pipe: Connection, maker: Maker, setting: Any, threads: int) -> None:
    """Make the contestant and give its turns, until told to end."""
    os.setpgid(0, 0)
    if threads:
        torch.set_num_threads(threads)
    try:
        with maker(setting) as turn:
            pipe.send({})
            while pipe.recv():
                gc.collect()
                pipe.send(turn())
    except EOFError:
        return
    except Exception:
        pipe.send(traceback.format_exc())


def interleave(
    contestants: dict[str, tuple[Maker, Any, int]], rounds: int, warm_ups: int = 1
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Let the contestants take turns.

    Args:
        contestants: maker, setting and threads, by name.
        rounds: that count.
        warm_ups: rounds before, which do not.

    Returns:
        what every round measured, by name, and the failures of those that could not take part, by name.
    """
    results: dict[str, list[dict[str, float]]] = {}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        ready = {}
        for name, (maker, setting, threads) in contestants.items():
            progress(f"starting {name}")
            try:
                ready[name] = stack.enter_context(Contestant(maker, setting, threads))
            except ContestantError as error:
                failures[name] = str(error)
        for number in range(-warm_ups, rounds):
            for name in list(ready):
                try:
                    measured = ready[name].turn()
                except ContestantError as error:
                    failures[name] = str(error)
                    del ready[name]
                    results.pop(name, None)  # every series has all rounds, or none
                    continue
                text = ", ".join(f"{key} {value:.4g}" for key, value in measured.items())
                progress(f"{'warm-up' if number < 0 else f'round {number + 1}/{rounds}'}: {name}: {text}")
                if number >= 0:
                    results.setdefault(name, []).append(measured)
    for name, text in failures.items():
        progress(f"{name} takes no part: {text}")
    return results, failures
