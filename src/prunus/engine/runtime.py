"""Where and how numbers are computed: device, precision, memory layout, compilation, seeds."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from prunus.errors import InputError

__all__ = ["Precision", "Runtime"]

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Where and how a training or a measurement computes. Raises InputError for what is not there.

    device          "auto" (CUDA if there is one, else CPU) or any torch device
    precision       of autocast; weights stay float32
    channels_last   images and 4-D weights in NHWC
    compile         torch.compile with static shapes: a last, smaller batch is left out. torch compiles a class for
                    eight networks of other widths and then no more: a sweep calls `torch.compiler.reset()` between
    seed            order of the data, augmentation, dropout
    sync_bn         batch norms see the batches of all processes (CUDA)
    timeout         seconds to wait for the other processes
    """

    device: str = "auto"
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    seed: int = 0
    sync_bn: bool = False
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise InputError(f"precision {self.precision!r} is none of {', '.join(get_args(Precision))}")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} must be 0 or above")
        if not self.timeout > 0:
            raise InputError(f"timeout={self.timeout} must be above 0 seconds")
        if self.device != "auto":
            try:
                device = torch.device(self.device)
            except RuntimeError as error:
                raise InputError(f"unknown device {self.device!r} (allowed: auto, cpu, cuda, cuda:1, mps)") from error
            if device.type == "cuda" and not torch.cuda.is_available():
                raise InputError(f"device {self.device!r} was asked for and torch sees no CUDA device")

    @property
    def torch_device(self) -> torch.device:
        """The device, with "auto" resolved. Of several processes on one machine each has the GPU of its local rank."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        return torch.device(device)

    def place(self, model: nn.Module) -> nn.Module:
        """Bring the model, in place, to the device and the layout. Returns what to call: the model, or it compiled."""
        return self.compiled(self.settled(model))

    def settled(self, model: nn.Module) -> nn.Module:
        """The model, brought in place to the device and the layout."""
        model.to(self.torch_device)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def compiled(self, net: nn.Module) -> nn.Module:
        """What to call: the net, or it compiled where that is wanted."""
        if not self.compile:
            return net
        compiled: nn.Module = torch.compile(net, dynamic=False)  # type: ignore[assignment]
        return compiled

    def move(self, batch: Any) -> Any:
        """The batch on the device: tensors inside tuples, lists and dicts too; float images in the layout."""
        if isinstance(batch, Tensor):
            if self.channels_last and batch.ndim == 4 and batch.is_floating_point():
                return batch.to(self.torch_device, non_blocking=True, memory_format=torch.channels_last)
            return batch.to(self.torch_device, non_blocking=True)
        if isinstance(batch, dict):
            return {key: self.move(value) for key, value in batch.items()}
        if isinstance(batch, tuple) and hasattr(batch, "_fields"):
            return type(batch)(*(self.move(value) for value in batch))
        if isinstance(batch, list | tuple):
            return type(batch)(self.move(value) for value in batch)
        return batch

    def autocast(self) -> torch.autocast:
        """The context of a forward pass; does nothing for fp32."""
        return torch.autocast(
            self.torch_device.type, dtype=_DTYPES[self.precision], enabled=self.precision != "fp32", cache_enabled=True
        )

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling for fp16; passes everything through otherwise, so the loop needs no branch."""
        return torch.amp.GradScaler(self.torch_device.type, enabled=self.precision == "fp16")

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Python's, numpy's and torch's global generators start from `seed`, and are put back afterwards."""
        devices = [self.torch_device] if self.torch_device.type == "cuda" else []
        python, legacy = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices):
            try:
                self.reseed()
                yield
            finally:
                random.setstate(python)
                np.random.set_state(legacy)

    def reseed(self, *place: int) -> None:
        """Start the global generators from the seed and a place in the training (epoch; or step and part).

        What is drawn there then depends on nothing before it: a training that was cut short goes on with the same
        numbers, and two processes draw what one draws that does their parts in turn.
        """
        if not place:
            mixed = self.seed
        else:
            mixed = int(np.random.SeedSequence([self.seed, *place]).generate_state(1, np.uint64)[0]) >> 1
        random.seed(mixed)
        np.random.seed(mixed % 2**32)
        torch.manual_seed(mixed)
