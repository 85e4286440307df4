"""Processes on this machine that make the runs of a sweep, and the taking of turns."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from prunus.child import command, environment
from prunus.lab.errand import Ended, Errand, given_up

__all__ = ["TRIES", "Closed", "Crew", "Here", "cores", "jobs_here", "take_turns"]

TRIES = 3
"""How often a run is begun whose process is lost."""

Carry = Callable[[Errand], Ended]


class Closed(Exception):
    """The crew was sent home while it was at work."""


class Crew(Protocol):
    """Who makes runs. size: how many at once."""

    size: int

    def carry_out(self, seat: int, errand: Errand) -> Ended:
        """Make a run and wait for its end. Raises Closed."""

    def close(self) -> None:
        """Send all home, at once."""


class Here:
    """So many processes on this machine. A run whose process is lost, such as by a lack of memory, is begun again and
    goes on from its checkpoint. logs: where the processes write what they print."""

    def __init__(self, size: int, threads: int, logs: Path) -> None:
        self.size, self.threads, self.logs = size, threads, logs
        self.closed = threading.Event()
        self.processes: list[subprocess.Popen[str] | None] = [None] * size
        self.devices = devices()

    def carry_out(self, seat: int, errand: Errand) -> Ended:
        """In the process of a seat, which is started where there is none."""
        code: int | None = None
        for _ in range(TRIES):
            process = self.processes[seat] or self._started(seat)
            answer = ""
            with suppress(OSError):  # its end of the pipe is gone
                send, get = _ends(process)
                send.write(errand.to_json() + "\n")
                send.flush()
                answer = get.readline()
            if answer.endswith("\n"):
                return Ended.of(answer)
            self.processes[seat] = None
            code = process.wait()
            _shut(process)
        return given_up(errand, f"its process ended with {code}, {TRIES} times; see {self._log(seat)}")

    def close(self) -> None:
        """Kill them. What they were at goes on from the last checkpoint another time."""
        self.closed.set()
        for process in self.processes:
            if process is not None:
                process.kill()
                process.wait()
                _shut(process)

    def _started(self, seat: int) -> subprocess.Popen[str]:
        if self.closed.is_set():
            raise Closed
        env = environment(OMP_NUM_THREADS=str(self.threads))
        if len(self.devices) > 1:
            env["CUDA_VISIBLE_DEVICES"] = self.devices[seat % len(self.devices)]
        with (self.logs / self._log(seat)).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                command("lab.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=env,
                start_new_session=True,  # an interrupt of the terminal is the parent's to deal with
            )
        self.processes[seat] = process
        if self.closed.is_set():
            process.kill()
        return process

    def _log(self, seat: int) -> str:
        return f"worker-{seat + 1}.log"


def take_turns(crew: Crew, turn: Callable[[Carry], bool]) -> None:
    """Let every seat of the crew take turns until one finds nothing to do; then the crew goes home.

    turn: does the next thing with what it is given to make runs with; called in a thread of each seat, in many at once.
    Raises what a turn raises, after the others were sent home.
    """
    wrong: list[BaseException] = []
    stop = threading.Event()

    def seat(number: int) -> None:
        try:
            while not stop.is_set() and turn(partial(crew.carry_out, number)):
                pass
        except Closed:
            pass
        except BaseException as error:
            wrong.append(error)
            stop.set()

    threads = [threading.Thread(target=seat, args=(number,), daemon=True) for number in range(crew.size)]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not wrong:
            for thread in threads:
                thread.join(0.1)
    finally:
        stop.set()
        crew.close()
        for thread in threads:
            thread.join(10)
    if wrong:
        raise wrong[0]


def cores() -> int:
    """Of the CPU, as far as this process may use them."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def jobs_here(device: str) -> int:
    """How many runs at once: one a GPU; without one, one for every four cores, and two where there are two."""
    found = 0 if device == "cpu" else len(devices())
    return found or min(cores(), max(2, cores() // 4))


def devices() -> list[str]:
    """The GPUs that processes may be told to use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    if not torch.cuda.is_available():
        return []
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    return told.split(",") if told else [str(number) for number in range(torch.cuda.device_count())]


def _ends(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


def _shut(process: subprocess.Popen[str]) -> None:
    for end in _ends(process):
        with suppress(OSError):
            end.close()
