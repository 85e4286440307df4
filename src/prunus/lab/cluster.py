"""Runs of a sweep over the machines of a Ray cluster, which share the folder that the runs are written to.

A run whose worker or machine is lost is begun again by Ray, on whichever machine has room, and goes on from its folder.
Two machines keep out of each other's way by locks on files, which the shared drive must have (NFS 4 does).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from prunus.errors import MissingExtra, ProcessError
from prunus.lab.crew import TRIES, Closed
from prunus.lab.errand import Ended, Errand, given_up

__all__ = ["Cluster"]


class Cluster:
    """The cluster that RAY_ADDRESS or `ray.init` names, or this machine as one. size: runs at once, by default as many
    as there are CPUs for. Raises MissingExtra, ProcessError where no cluster answers."""

    def __init__(self, size: int | None, threads: int, *, gpu: bool) -> None:
        self.ray, self.closed = _ray(), False
        self.own = not self.ray.is_initialized()
        if self.own:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                self.ray.init(log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ProcessError(f"no Ray cluster: {' '.join(str(error).split())}") from error
        found = self.ray.cluster_resources()
        self.size = size or max(1, int(found.get("CPU", 1)) // threads)
        needs: dict[str, Any] = {"num_cpus": threads, "max_retries": TRIES - 1}
        if gpu and found.get("GPU"):
            needs["num_gpus"] = 1
        self.make = self.ray.remote(**needs)(_make)
        self.at_work: dict[int, Any] = {}

    def carry_out(self, seat: int, errand: Errand) -> Ended:
        """On some machine. Raises Closed."""
        if self.closed:
            raise Closed
        try:
            self.at_work[seat] = self.make.remote(errand.to_json())
            return Ended.of(self.ray.get(self.at_work[seat]))
        except Exception as error:  # Ray's own: what goes wrong in a run is an answer
            if self.closed:
                raise Closed from error
            return given_up(errand, f"lost by the cluster, {TRIES} times at most: {_first_line(error)}")
        finally:
            self.at_work.pop(seat, None)

    def close(self) -> None:
        """Cancel what is at work; a cluster that was started here ends."""
        self.closed = True
        for one in list(self.at_work.values()):
            with suppress(Exception):
                self.ray.cancel(one, force=True)
        if self.own:
            self.ray.shutdown()


def _make(text: str) -> str:
    """What a worker of the cluster does."""
    from prunus.lab.errand import carry_out

    return carry_out(Errand.of(text)).to_json()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtra.of("ray", "cluster") from error
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
