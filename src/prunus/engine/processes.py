"""Several processes as one: what the loop asks of them, and the single process that has nothing to do.

Started by `torchrun` or `accelerate launch`, on one machine or many. Accelerate finds the processes and opens the
group; torch's DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import atexit
import gc
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, nn

from prunus.engine.runtime import Runtime
from prunus.errors import InputError, ProcessError

__all__ = ["One", "Several", "join", "leave"]

PAUSE = 0.05
"""Seconds that the end of a process waits for the threads of its group."""


class One:
    """A process alone. The base of `Several`, so that the loop has no branch."""

    rank, world = 0, 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to call for a forward pass whose gradients all processes share."""
        return model

    def gathering(self, net: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Around the backward of one part: gradients are exchanged with the last part of a step only."""
        return nullcontext()

    def average_(self, tensors: Iterable[Tensor | None]) -> None:
        """Replace each floating tensor by its mean over the processes."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        return values

    def wait(self) -> None:
        """Until all processes are here."""


class Several(One):
    """One of `world` processes, which joined through Accelerate."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def wrap(self, model: nn.Module) -> nn.Module:
        if not any(p.requires_grad for p in model.parameters()):
            return model
        device = next(model.parameters()).device
        ids = [device] if device.type == "cuda" else None
        # Every process keeps its own running statistics; `average_` brings them together at checkpoints.
        with warnings.catch_warnings():  # what torch names instead still sends buffers around once
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return nn.parallel.DistributedDataParallel(
                model, device_ids=ids, broadcast_buffers=False, find_unused_parameters=True
            )

    def gathering(self, net: nn.Module, last: bool) -> AbstractContextManager[object]:
        if last or not isinstance(net, nn.parallel.DistributedDataParallel):
            return nullcontext()
        quiet: AbstractContextManager[object] = net.no_sync()
        return quiet

    def average_(self, tensors: Iterable[Tensor | None]) -> None:
        floating = [t for t in tensors if t is not None and t.is_floating_point() and t.numel()]
        if not floating:
            return
        flat = torch.cat([t.detach().reshape(-1).to(torch.float64) for t in floating])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat / self.world, [t.numel() for t in floating])
        with torch.no_grad():
            for tensor, part in zip(floating, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def total(self, values: Tensor) -> Tensor:
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed

    def wait(self) -> None:
        torch.distributed.barrier()


def join(runtime: Runtime) -> One:
    """This process's place among those that were launched together; `One` where it was started alone.

    Raises ProcessError where not all come within `runtime.timeout` seconds.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return One()
    from accelerate import PartialState

    try:
        cpu = runtime.torch_device.type == "cpu"
        state = PartialState(cpu=cpu, timeout=timedelta(seconds=runtime.timeout))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProcessError(
            f"process {os.environ.get('RANK', '?')} of {os.environ['WORLD_SIZE']} did not meet the others within "
            f"{runtime.timeout:g} s: {reason}; are all started, with the same MASTER_ADDR and MASTER_PORT?"
        ) from error
    if state.num_processes < 2:
        return One()
    atexit.register(leave)
    return Several(state.process_index, state.num_processes)


@contextmanager
def synchronised(model: nn.Module, wanted: bool, processes: One, device: torch.device) -> Iterator[None]:
    """Batch norms see the batches of all processes inside (`torch.nn.SyncBatchNorm`), and are plain again after."""
    if not wanted or processes.world == 1:
        yield
        return
    if device.type != "cuda":
        raise InputError("sync_bn needs CUDA devices; torch's SyncBatchNorm does not run on the CPU")
    plain = {name: module for name, module in model.named_modules() if _is_batch_norm(module) and name}
    for name, module in plain.items():
        model.set_submodule(name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
    try:
        yield
    finally:
        for name, module in plain.items():
            module.train(model.get_submodule(name).training)
            model.set_submodule(name, module)  # parameters and statistics are the same tensors in both


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)


def leave() -> None:
    """Leave the group at the end of a process, with no thread of it at work.

    A thread that lets go of a tensor while Python ends wants the interpreter, is ended in the middle of that, and takes
    the process with it by SIGABRT, its work long done.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # wrapped models in cycles hold the group, whose end is what joins its threads
        torch.distributed.destroy_process_group()
        time.sleep(PAUSE)  # without the interpreter, for those whose group something holds still
