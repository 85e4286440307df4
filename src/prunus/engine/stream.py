"""Images too many for the memory: decoded by worker processes while they are used."""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from prunus.engine.decode import Item, Resize, alone, in_words, picture, resized
from prunus.errors import DataError, ProcessError

__all__ = ["Crops", "Stream", "StreamReader", "random_box"]

SHOWN = 3
"""Names of images that a message lists."""

_DEAD = "a process that decodes images has ended: it was killed, perhaps for want of memory (try fewer workers)"


@dataclass(frozen=True, eq=False)
class Stream:
    """Encoded images with labels, of which sample n is `items[index[n]]` and has `labels[n]`.

    shape: (C, H, W) of every decoded image. resize: to which it is brought; None: all have that size already.
    `where(i)` names item i. workers: processes that decode; None: one a core; 0: none, this process does it.
    skip_bad: in training, the next sample that decodes stands in for one that does not; where measured, such a one is
    left out. `skipped` holds their names, as far as they were met.
    """

    items: Sequence[Item] = field(repr=False)
    labels: Tensor
    where: Callable[[int], str] = field(repr=False)
    shape: tuple[int, int, int]
    resize: Resize | None = None
    workers: int | None = None
    skip_bad: bool = False
    index: Tensor | None = field(default=None, repr=False)
    skipped: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.items)))
        if self.labels.dtype != torch.int64 or self.labels.shape != self.places.shape:
            raise DataError(f"labels must be int64 ({len(self.places)},), not {tuple(self.labels.shape)}")

    @property
    def places(self) -> Tensor:
        """int64 (N,): which item each sample is."""
        assert self.index is not None
        return self.index

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Stream({len(self)} images {self.shape})"

    def subset(self, index: Tensor) -> Stream:
        """The samples of `index` (int64), in that order."""
        return Stream(
            self.items,
            self.labels[index],
            self.where,
            self.shape,
            self.resize,
            self.workers,
            self.skip_bad,
            self.places[index],
            self.skipped,
        )

    def images(self, index: Tensor) -> Tensor:
        """uint8 (N, C, H, W) of some samples, as they are measured, decoded here. Raises DataError."""
        feed = StreamReader(self, torch.device("cpu"), 0)
        spans = [(a, min(a + 64, len(index))) for a in range(0, len(index), 64)]
        return torch.cat([x for x, _ in feed.read(index, spans, None)] or [torch.empty(0, *self.shape).byte()])


DRAWS = 23
"""Random numbers for each sample: 22 for `random_box`, one for the mirror."""


@dataclass(frozen=True, eq=False)
class Crops:
    """Random resized crops of at least `scale` of the area (1: the centre instead), mirrored or not.

    draws: float32 (N, 23) in 0..1, for each position of the epoch.
    """

    draws: Tensor
    scale: float
    flip: bool = False

    def at(self, a: int, b: int) -> Crops:
        """Those of the positions a … b-1."""
        return Crops(self.draws[a:b].clone(), self.scale, self.flip)


def random_box(draws: Sequence[float], height: int, width: int, scale: float) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop: an area of scale..1 of the image, sides as 3:4 to 4:3, ten tries, else the
    centre. draws: 22 numbers in 0..1, for area and ratio of each try, then for the place."""
    low, high = math.log(3 / 4), math.log(4 / 3)
    for k in range(10):
        area = height * width * (scale + (1 - scale) * draws[2 * k])
        ratio = math.exp(low + (high - low) * draws[2 * k + 1])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int((height - h + 1) * draws[20]), int((width - w + 1) * draws[21]), h, w
    h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


class _Job(NamedTuple):
    """A micro-batch: which items, and the crops of them."""

    items: list[int]
    crops: Crops | None


class _Done(NamedTuple):
    """Its images (N, C, H, W), and (place in the batch, reason) of those that did not decode."""

    images: Tensor
    failed: list[tuple[int, str]]


class _Decoder(Dataset[Any]):
    """What a worker knows. It returns reasons, because raised errors arrive with a traceback in their text."""

    def __init__(self, stream: Stream) -> None:
        self.items, self.shape, self.resize = stream.items, stream.shape, stream.resize
        self.buffer = torch.empty(0, dtype=torch.uint8)

    def __getitems__(self, job: _Job) -> _Done:
        """The images lie in memory with the channels last, as decoders give them: turning them costs more than a crop.

        They are gathered where the last batch was, because new memory costs more than copying. torch's collation then
        puts them where the process that trains finds them.
        """
        channels, height, width = self.shape
        if len(self.buffer) < len(job.items):
            self.buffer = torch.zeros(len(job.items), height, width, channels, dtype=torch.uint8)
        failed = []
        draws = job.crops.draws.tolist() if job.crops else [()] * len(job.items)
        for k, item in enumerate(job.items):
            try:
                self.buffer[k] = self.one(item, job.crops, draws[k]).permute(1, 2, 0)
            except DataError as error:
                failed.append((k, str(error)))
        batch: Tensor = default_collate([self.buffer[: len(job.items)]])
        return _Done(batch[0].permute(0, 3, 1, 2), failed)

    def one(self, item: int, crops: Crops | None, draws: Sequence[float]) -> Tensor:
        """One decoded image. Raises DataError with the reason alone."""
        channels, *size = self.shape
        image = picture(self.items[item], channels)
        if crops is not None and crops.scale < 1:
            top, left, h, w = random_box(draws, image.shape[1], image.shape[2], crops.scale)
            image = image[:, top : top + h, left : left + w]
            if [h, w] != size:
                dense = alone(image).contiguous(memory_format=torch.channels_last)
                image = F.interpolate(dense, size, mode="bilinear", antialias=True)[0]
        elif self.resize is not None:
            image = resized(alone(image), self.resize)[0]
        if tuple(image.shape) != self.shape:
            wanted = in_words(torch.empty(self.shape, device="meta"))
            raise DataError(f"is {in_words(image)} and others are {wanted}; pass resize= to make them equal")
        return image.flip(2) if crops is not None and crops.flip and draws[-1] < 0.5 else image


class _Plan:
    """The jobs of the iteration that starts next. One loader, and so the same workers, serves all epochs."""

    def __init__(self) -> None:
        self.make: Callable[[], Iterator[_Job]] = lambda: iter(())

    def __iter__(self) -> Iterator[_Job]:
        return self.make()


class StreamReader:
    """Gives the images of a stream, decoded ahead by its workers. One iteration at a time."""

    def __init__(self, stream: Stream, device: torch.device, workers: int | None) -> None:
        self.stream, self.device, self.decoder, self.plan = stream, device, _Decoder(stream), _Plan()
        count = next((n for n in (workers, stream.workers) if n is not None), None)
        count = cores() if count is None else count
        self.loader: DataLoader[_Done] = DataLoader(
            self.decoder,
            batch_sampler=self.plan,  # type: ignore[arg-type]
            num_workers=count,
            persistent_workers=count > 0,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # not the global one, whose state training depends on
        )

    def read(
        self, order: Tensor, spans: Sequence[tuple[int, int]], crops: Crops | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 and labels of each span of positions, on the device. Raises DataError, ProcessError."""
        places = self.stream.places[order]
        self.plan.make = lambda: (_Job(places[a:b].tolist(), crops and crops.at(a, b)) for a, b in spans)
        known = len(self.stream.skipped)
        results = self._results()
        for (a, b), done in zip(spans, results, strict=True):
            images, labels = done.images, self.stream.labels[order[a:b]]
            if done.failed:
                images, labels = self._mended(done, order, a, labels, crops)
            yield images.to(self.device, non_blocking=True), labels.to(self.device)
        new = self.stream.skipped[known:]
        if new:
            warnings.warn(skipped_line(new), stacklevel=2)

    def _results(self) -> Iterator[_Done]:
        try:
            results = iter(self.loader)
            if self.loader.num_workers:
                _name_dead_workers()
            yield from results
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ProcessError(_DEAD) from error

    def _mended(
        self, done: _Done, order: Tensor, first: int, labels: Tensor, crops: Crops | None
    ) -> tuple[Tensor, Tensor]:
        """Images that did not decode are replaced by the next that does, or left out where measured."""
        stream, labels = self.stream, labels.clone()
        for k, reason in done.failed:
            self._note(int(stream.places[order[first + k]]), reason)
        if crops is None:
            good = torch.ones(len(labels), dtype=torch.bool)
            good[[k for k, _ in done.failed]] = False
            return done.images[good], labels[good]
        for k, _ in done.failed:
            for ahead in range(1, len(order) + 1):
                sample = int(order[(first + k + ahead) % len(order)])
                try:
                    done.images[k] = self.decoder.one(
                        int(stream.places[sample]), crops, crops.draws[first + k].tolist()
                    )
                except DataError:
                    continue
                labels[k] = stream.labels[sample]
                break
            else:
                raise DataError("none of the images can be decoded")
        return done.images, labels

    def _note(self, item: int, reason: str) -> None:
        name = self.stream.where(item)
        if not self.stream.skip_bad:
            raise DataError(f"{name} {reason}")
        if name not in self.stream.skipped:
            self.stream.skipped.append(name)


def cores() -> int:
    """Processor cores for each of the processes that train on this machine, at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def skipped_line(names: Sequence[str]) -> str:
    """One line that counts the images that were left out, and names the first."""
    more = ", …" if len(names) > SHOWN else ""
    one = len(names) == 1
    return (
        f"{len(names)} image{'' if one else 's'} that {'does' if one else 'do'} not decode "
        f"{'is' if one else 'are'} skipped: {', '.join(names[:SHOWN])}{more}"
    )


def _as_it_is(done: Any) -> Any:
    return done


def _name_dead_workers() -> None:
    """torch raises a RuntimeError as soon as a worker dies, wherever the main thread then is. Name it."""
    previous = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not callable(previous) or getattr(previous, "__module__", "") == __name__:
        return

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            previous(number, frame)
        except RuntimeError as error:
            raise ProcessError(_DEAD) from error

    try:
        signal.signal(signal.SIGCHLD, handler)
    except ValueError:  # not the main thread: torch installs no handler either
        return
