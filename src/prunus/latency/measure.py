"""Dense against pruned, measured: latency, images a second, memory, where the time goes, and what to make of it."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..asked import the_model
from ..costs import cost
from ..errors import ExampleError, InputError, PrunusError, UnknownName
from ..exporting.given import short
from ..state import as_found, example_tensors, plain_table
from .layers import Layer, layers_of
from .memory import peak_bytes
from .pairs import Call, Sample, Spread, interleaved, quiet
from .runners import RUNNERS, eager
from .verdict import verdict_of

CALM = 0.75
"""A smaller share of quiet turns is told of."""


@dataclass(frozen=True, eq=False)
class Row:
    """One runtime at one batch size. Times are seconds a call: median and quartiles.

    ratio: pruned over dense, the median of the quiet turns with its 95 % interval (`pairs`); noise: the same of the
    dense network against itself; calm: the share of quiet turns. Ratio and pruned are None where only one network was
    timed. peak: bytes that a forward holds at most beside weights and inputs, as torch runs it.
    """

    runtime: str
    batch: int
    dense: Spread
    pruned: Spread | None
    ratio: Spread | None
    noise: Spread
    peak: tuple[int, int | None]
    calm: float = 1.0

    @property
    def images_per_second(self) -> tuple[float, float | None]:
        """Samples a second at the medians, dense and pruned."""
        return self.batch / self.dense.median, None if self.pruned is None else self.batch / self.pruned.median

    @property
    def busy(self) -> tuple[str, ...]:
        """What to say of a machine that did other work."""
        name, share = f"{self.runtime}, batch {self.batch}", 100 - 100 * self.calm
        return (f"{name}: the machine was busy in {share:.0f} % of the turns",) if self.calm < CALM else ()

    @property
    def told(self) -> bool:
        """Whether the difference is larger than what the dense network shows against itself."""
        if self.ratio is None:
            return False
        return self.ratio.high < min(1.0, self.noise.low) or self.ratio.low > max(1.0, self.noise.high)


@dataclass(frozen=True, eq=False)
class Bench:
    """What `bench` measured. macs: pruned over dense. layers: the slowest first, as torch runs them eagerly."""

    rows: tuple[Row, ...]
    layers: tuple[Layer, ...]
    macs: float | None
    threads: int
    device: str
    hardware: str
    versions: dict[str, str]
    verdict: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.hardware}, {self.threads} threads, {self.device}; {versions_text(self.versions)}"]
        for row in self.rows:
            text = f"{row.runtime}, batch {row.batch}: {milliseconds(row.dense)}"
            if row.pruned is not None and row.ratio is not None:
                text += f" -> {milliseconds(row.pruned)}, ratio {ratio_text(row.ratio)}"
            lines.append(f"{text} (dense against itself {ratio_text(row.noise)})")
            lines += row.busy
        return "\n".join([*lines, *self.verdict])


def bench(
    dense: nn.Module,
    example: Any,
    pruned: nn.Module | None = None,
    *,
    runtimes: str | Sequence[str] = "eager",
    batches: int | Sequence[int] = 1,
    threads: int | None = None,
    device: str | torch.device | None = None,
    seconds: float = 3.0,
) -> Bench:
    """Measure a network, or a dense and a pruned one in turns, in eval mode.

    example: as the models take it; its samples are repeated to each of `batches`. runtimes: of RUNNERS. threads: of the
    CPU, by default as many as torch uses. seconds: for each runtime and batch. The models are left as they were, but
    for what their forwards count or collect in plain attributes.
    Raises UnknownName, InputError, ModelError, ExampleError; ExportError for a runtime of files.
    """
    wanted = [runtimes] if isinstance(runtimes, str) or not isinstance(runtimes, Iterable) else list(runtimes)
    for name in wanted:
        if name not in RUNNERS:
            raise UnknownName.of("runtime", name, RUNNERS)
    if not wanted:
        raise InputError(f"no runtime is named; use one or more of {', '.join(RUNNERS)}")
    sizes = [batches] if isinstance(batches, int) else list(batches)
    if not sizes or not all(map(_whole, sizes)):
        raise InputError(f"batches={batches!r} are whole numbers of at least 1")
    if threads is not None and not _whole(threads):
        raise InputError(f"threads={threads!r} must be a whole number of at least 1")
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise InputError(f"seconds={seconds!r} must be a number above 0")
    one = the_model(dense)
    nets = [one] if pruned is None else [one, the_model(pruned)]
    place = _place(device, one)
    if place.type != "cpu" and set(wanted) & {"onnxruntime", "openvino"}:
        raise InputError(f"onnxruntime and openvino are timed on the CPU here, and the device is {place}")
    used = torch.get_num_threads() if threads is None else threads
    sync = torch.cuda.synchronize if place.type == "cuda" else None
    rows: list[Row] = []
    example = plain_table(example)
    with _ready(nets, place, used):
        first = _sized(example, sizes[0], place)
        for runtime in wanted:
            for size in sizes:
                given = _sized(example, size, place)
                calls = [_started(runtime, net, given, used) for net in nets]
                sample = interleaved([*calls, calls[0]], seconds=seconds, sync=sync)
                peaks = [peak_bytes(eager(net, given, used), place) for net in nets]
                rows.append(_row(runtime, size, sample, len(nets), peaks))
        layers = layers_of(nets[0], nets[-1], first, sync=sync)
        counts = [cost(net, first).macs for net in nets]
    macs = counts[1] / counts[0] if pruned is not None and counts[0] else None
    told = verdict_of(rows, layers, macs, nets[-1]) if macs is not None else ()
    return Bench(tuple(rows), tuple(layers), macs, used, str(place), hardware(place), versions(wanted), tuple(told))


def _whole(value: object) -> bool:
    """Whether this is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _place(device: str | torch.device | None, model: nn.Module) -> torch.device:
    """Where to measure. Raises InputError for a device that is not there, or on which nothing is computed."""
    if device is None:
        return next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except Exception as error:  # torch raises several kinds
        raise InputError(f"device={str(device)!r} cannot be used: {short(error)}") from error
    if place.type == "meta":
        raise InputError("device='meta' computes nothing, so nothing can be measured there")
    return place


def _started(runtime: str, net: nn.Module, given: Any, threads: int) -> Call:
    """A call that has been made once. Raises ExampleError where the network itself does not run on the example."""
    try:
        with torch.no_grad():
            eager(net, given, threads)()
    except Exception as error:  # the user's forward may raise anything
        shapes = ", ".join(str(tuple(t.shape)) for t in example_tensors(given))
        raise ExampleError(f"{type(net).__name__} does not run on an example of {shapes}: {short(error)}") from error
    try:
        call = RUNNERS[runtime][0](net, given, threads)
        with torch.no_grad():
            call()
    except PrunusError:
        raise
    except Exception as error:  # a compiler that is missing, an op that a runtime has not
        raise InputError(f"{type(net).__name__} does not run on {runtime}: {short(error)}") from error
    return call


def _row(runtime: str, size: int, sample: Sample, nets: int, peaks: list[int]) -> Row:
    few = quiet(sample)
    noise = few.ratio(nets, 0)  # the dense network, timed twice a turn
    calm = len(few.seconds) / len(sample.seconds)
    if nets == 1:
        return Row(runtime, size, sample.of(0), None, None, noise, (peaks[0], None), calm)
    return Row(runtime, size, sample.of(0), sample.of(1), few.ratio(1, 0), noise, (peaks[0], peaks[1]), calm)


@contextmanager
def _ready(nets: Sequence[nn.Module], place: torch.device, threads: int) -> Iterator[None]:
    """The networks on the device in eval mode, with that many threads; all put back afterwards."""
    homes = [next((p.device for p in net.parameters()), place) for net in nets]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if len(nets) == 1:
            with as_found(nets[0]):
                nets[0].to(place).eval()
                yield
        else:
            with as_found(nets[0]), as_found(nets[1]):
                for net in nets:
                    net.to(place).eval()
                yield
    finally:
        torch.set_num_threads(before)
        for net, home in zip(nets, homes, strict=True):
            net.to(home)


def _sized(example: Any, batch: int, place: torch.device) -> Any:
    """The example with its samples repeated to `batch`. Tensors as long as the first one are the batched ones."""
    tensors = example_tensors(example)
    length = tensors[0].shape[0] if tensors[0].dim() else 0
    if not length:
        raise InputError("the example has no batch axis, so it cannot be repeated to a batch")

    def sized(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dim() and value.shape[0] == length:
            value = value.repeat(-(-batch // length), *[1] * (value.dim() - 1))[:batch]
        return value.to(place)

    return tree_map(sized, example)


def milliseconds(spread: Spread) -> str:
    """`12.3 ms (12.1 to 12.9)`: the median and the quartiles."""
    return f"{1e3 * spread.median:.3g} ms ({1e3 * spread.low:.3g} to {1e3 * spread.high:.3g})"


def ratio_text(spread: Spread) -> str:
    """`0.61 [0.60, 0.63]`: the median and its 95 % interval."""
    return f"{spread.median:.3f} [{spread.low:.3f}, {spread.high:.3f}]"


def versions_text(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def hardware(place: torch.device) -> str:
    """The GPU, or the processor and its cores."""
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def versions(runtimes: Sequence[str]) -> dict[str, str]:
    """Of Python, torch and the runtimes."""
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, version

    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:  # of another package, such as onnxruntime-gpu
            return str(import_module(name).__version__)

    own = {name: of(name) for name in ("onnxruntime", "openvino") if name in runtimes}
    return {"Python": platform.python_version(), "torch": torch.__version__, **own}
