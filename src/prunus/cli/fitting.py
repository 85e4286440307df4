"""The options of a training, made from the settings themselves: `Fit`, with `Augment` and `Distil` inside."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from prunus.cli import options as opt
from prunus.errors import InputError

if TYPE_CHECKING:
    from prunus.engine.config import Fit
    from prunus.engine.data import Data

__all__ = ["add_fit", "add_method", "config", "method_options"]

_ELSEWHERE = frozenset({"epochs", "batch_size", "lr", "augment", "distil"})
"""Fields of Fit that have an option of their own in `options`, or are tables."""
_BY_AUGMENT = frozenset({"crop", "flip"})
_RENAMED = {"weight": "distil-weight"}


def add_fit(parser: argparse.ArgumentParser, *, teacher: bool) -> None:
    """Everything that `Fit` can be told, and what a training may be given: --validation, --resume, --track."""
    from prunus.engine.config import Augment, Distil, Fit

    group = parser.add_argument_group("how it trains")
    _add(group, Fit, _ELSEWHERE)
    group.add_argument(
        "--validation",
        type=opt.fraction,
        default=0.0,
        metavar="X",
        help="share of each class that is held out of the train part, to choose epochs by (default 0)",
    )
    group.add_argument("--sync-bn", action="store_true", help="batch norms see the batches of all processes (CUDA)")
    _add(parser.add_argument_group("augmentation"), Augment, _BY_AUGMENT, unset=True)  # --augment and the data say
    if teacher:
        group = parser.add_argument_group("distillation")
        group.add_argument("--teacher", metavar="WEIGHTS|RUN", help="a checkpoint of MODEL at full size, or a run")
        _add(group, Distil, frozenset())
    group = parser.add_argument_group("what is kept")
    group.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    group.add_argument(
        "--checkpoint-every", type=opt.whole, default=0, metavar="N", help="steps; an epoch's end always has one"
    )
    group.add_argument("--track", type=opt.names, default=(), metavar="A,B", help="tensorboard, mlflow, wandb")


def add_method(parser: argparse.ArgumentParser) -> None:
    """--method and --option, of a training that prepares a cut."""
    group = parser.add_argument_group("sparsity")
    group.add_argument("--method", metavar="M", help="train with the penalty or gates of this method, such as slimming")
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method, such as lam=1e-3"
    )
    group.add_argument("--target", metavar="T", help="the budget to train towards, for methods that need one")
    opt.add_rates(group)


def config(options: argparse.Namespace, data: Data, epochs: int) -> Fit:
    """The settings that the options make. An option that the verb does not have is at its default."""
    from dataclasses import replace

    from prunus.engine.config import Augment, Distil, Fit
    from prunus.lab.job import augmented

    given = {name: getattr(options, name) for name in _names(Fit, _ELSEWHERE) if hasattr(options, name)}
    images = {name: getattr(options, name) for name in _names(Augment, _BY_AUGMENT) if hasattr(options, name)}
    distil = {name: getattr(options, name) for name in _names(Distil, frozenset()) if hasattr(options, name)}
    return Fit(
        epochs=epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        augment=replace(augmented(data, options.augment), **images),
        distil=Distil(**distil),
        **given,
    )


def method_options(options: argparse.Namespace) -> Mapping[str, Any]:
    """The settings of --option, read as TOML values."""
    from prunus.lab.recipe import value_of

    found: dict[str, Any] = {}
    for text in options.option:
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise InputError(f"--option {text!r} is no NAME=VALUE, such as lam=1e-3")
        found[name.strip()] = value_of(f"--option {text!r}", value.strip())
    return found


def _names(kind: type, without: frozenset[str]) -> list[str]:
    return [name for name in get_type_hints(kind) if name not in without]


def _add(group: argparse._ArgumentGroup, kind: Any, without: frozenset[str], *, unset: bool = False) -> None:
    """An option for each field, with its type, its default and what the docstring says of it. unset: one that is not
    given leaves no trace."""
    from prunus.lab.schema import described

    texts, default = described(kind), kind()
    for name, hint in get_type_hints(kind).items():
        if name in without:
            continue
        flag, was = "--" + _RENAMED.get(name, name).replace("_", "-"), getattr(default, name)
        text = texts.get(name, "").replace("%", "%%")
        if hint is bool:
            unsaid: Any = argparse.SUPPRESS if unset else False
            group.add_argument(flag, dest=name, action="store_true", default=unsaid, help=text)
            continue
        shown = f"{text} (default {was})" if was not in (None, ()) else text
        what = argparse.SUPPRESS if unset else was
        if get_origin(hint) is Literal:
            group.add_argument(flag, dest=name, choices=get_args(hint), default=what, help=shown)
        else:
            read, sign = _READERS[hint]
            group.add_argument(flag, dest=name, type=read, default=what, metavar=sign, help=shown)


_READERS: dict[Any, tuple[Any, str]] = {
    int: (opt.whole, "N"),
    float: (opt.number, "X"),
    float | None: (opt.number, "X"),
    tuple[float, ...]: (opt.floats, "A,B"),
    tuple[str, ...]: (opt.names, "A,B"),
}
