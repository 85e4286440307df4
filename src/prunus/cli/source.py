"""From the options of a verb to a model, its data and an example."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prunus.cli.remembered import data_of
from prunus.cli.verb import first
from prunus.errors import InputError
from prunus.lab.folder import Description

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prunus.engine.config import Fit
    from prunus.engine.data import Data
    from prunus.engine.runtime import Runtime
    from prunus.engine.task import Task
    from prunus.plan import Plan

    Past = tuple[Description | None, Plan | None, Path | None]

__all__ = ["Source", "finetuning", "runtime", "source", "task", "with_data"]


@dataclass(frozen=True)
class Source:
    """A model ready for work: how it was named, the cut that led to it, and one example input."""

    model: nn.Module
    description: Description
    plan: Plan | None
    example: Tensor


def source(options: argparse.Namespace, *, needs_data: bool = False) -> tuple[Source, Data | None]:
    """The model of MODEL, --weights and --classes, or of --from; and the data, where --data is given or needed."""
    if needs_data or getattr(options, "data", None) is not None:
        return with_data(options)
    return _source(options, _past(options), None), None


def with_data(options: argparse.Namespace, *, only: Literal["test"] | None = None) -> tuple[Source, Data]:
    """The model, and the data of --data. only: read just that part, where mean and std need no other."""
    past = _past(options)
    data = _data(options, past[0], only)
    return _source(options, past, data), data


def _source(options: argparse.Namespace, past: Past, loaded: Data | None) -> Source:
    from prunus.lab import folder

    old, plan, weights = past
    described = old or Description(options.model)
    if loaded is not None:
        folder.check_classes(described, loaded)
        described = replace(
            described,
            mean=tuple(loaded.mean) or None,
            std=tuple(loaded.std) or None,
            resize=options.resize or described.resize,
            class_names=described.class_names or loaded.class_names or None,
        )
    example = _example(options, described, loaded)
    classes = options.classes or described.classes or _classes_of(described.model, loaded, old)
    described = replace(described, classes=classes, input=tuple(example.shape[1:]))
    if loaded is not None and old is None:
        described = replace(described, stem=folder.stem_for(described.model, example))
    return Source(folder.rebuild(described, plan, weights), described, plan, example)


def runtime(options: argparse.Namespace) -> Runtime:
    """Device, precision, layout and seed of the options."""
    from prunus.engine.runtime import Runtime

    return Runtime(
        device=options.device,
        precision=options.precision,
        channels_last=options.channels_last,
        compile=options.compile,
        seed=options.seed,
        sync_bn=getattr(options, "sync_bn", False),
    )


def task(options: argparse.Namespace) -> Task | None:
    """The task of --task; None without it, so that `fit` and `evaluate` classify."""
    from prunus.engine.task import task_of

    return None if getattr(options, "task", None) is None else task_of(options.task)


def finetuning(options: argparse.Namespace, data: Data, epochs: int) -> Fit | None:
    """The settings of a fine-tuning; None where it has no epochs."""
    from prunus.cli.fitting import config

    return config(options, data, epochs) if epochs else None


def _data(options: argparse.Namespace, described: Description | None, only: Literal["test"] | None) -> Data:
    """The data of --data, prepared as the options say or else as the run of --from was."""
    from prunus.engine.data import load

    if options.data is None and (known := data_of(options.source)):
        options.data = known
        if first() and not getattr(options, "json", False):
            print(f"data: {known}, on which the run of --from was trained", file=sys.stderr)
    if options.data is None:
        raise InputError("no data; give --data digits, a folder of parquet files or images, an .npz, or a hub id")
    old = described or Description("")
    mean, std = options.mean or old.mean or None, options.std or old.std or None
    return load(
        options.data,
        mean=mean,
        std=std,
        resize=options.resize or old.resize,
        only=only,
        validation=getattr(options, "validation", 0.0),
        stream=options.stream,
        workers=options.workers,
        skip_bad=options.skip_bad,
    )


def _past(options: argparse.Namespace) -> Past:
    """What --from or --weights bring: a description, a plan, and a file of weights."""
    from prunus.lab import folder
    from prunus.models import check_source

    given = getattr(options, "weights", None)
    if options.source is None:
        if options.model is None:
            raise InputError("no model; give MODEL, such as resnet56 (see `prunus models`), or --from RUN")
        check_source(options.model)
        return (None, None, None) if given is None else (None, folder.plan_in(Path(given)), Path(given))
    if options.model is not None or given is not None:
        raise InputError("--from brings model and weights; give either MODEL and --weights, or --from")
    return folder.read(Path(options.source))


def _example(options: argparse.Namespace, described: Description, loaded: Data | None) -> Tensor:
    """One input: from the data, or random with the shape of --input, the same one each time."""
    import torch

    size = getattr(options, "input", None)
    if size is None and loaded is not None:
        return loaded.example()
    size = size or described.input
    if size is None:
        raise InputError("the shape of the input is not known; give --input, such as --input 3,32,32")
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))


def _classes_of(model: str, loaded: Data | None, old: Description | None) -> int | None:
    """The data's number of classes. A run whose factory was not told it is what it is."""
    from prunus.lab.folder import classes_for

    if loaded is None or (old is not None and ".py:" in model):
        return None
    return classes_for(model, loaded)
