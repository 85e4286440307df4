"""The options that several verbs share, and the readers of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from prunus.errors import InputError

__all__ = [
    "add_attention",
    "add_budget",
    "add_data",
    "add_input",
    "add_machine",
    "add_model",
    "add_out",
    "add_rates",
    "add_task",
    "add_training",
    "add_way",
    "floats",
    "names",
    "rates",
    "shape",
    "sizes",
    "target_of",
    "widths",
]

T = TypeVar("T")
PRECISIONS = ("fp32", "bf16", "fp16")


def option(read: Callable[[str], T]) -> Callable[[str], T]:
    """Make `read` an argparse type that keeps its own message (argparse hides that of a ValueError)."""

    @wraps(read)
    def reader(text: str) -> T:
        try:
            return read(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return reader


@option
def shape(text: str) -> tuple[int, ...]:
    """`3,32,32` -> (3, 32, 32): one example, without the batch axis."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise InputError(f"{text!r} is no shape; give whole numbers of at least 1 joined by commas, such as 3,32,32")
    return sizes


@option
def floats(text: str) -> tuple[float, ...]:
    """`.485,.456,.406` -> one number per channel."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{text!r} is no list of numbers; join them by commas, such as .485,.456,.406") from None


@option
def resize(text: str) -> int | tuple[int, int]:
    """`224`, or `256,224`."""
    parts = text.split(",")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"{text!r} is no size; give S, such as 224, or R,S, such as 256,224")
    return int(text) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


@option
def names(text: str) -> tuple[str, ...]:
    """`a,b` -> ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


@option
def widths(text: str) -> dict[str, int]:
    """`features.0=24,features.3=48` -> {name: kept width}."""
    result: dict[str, int] = {}
    for part in names(text):
        name, sign, number = part.rpartition("=")
        if not sign or not number.strip().isdecimal() or int(number) < 1:
            raise InputError(f"{part!r} is no width; give NAME=WIDTH pairs joined by commas, such as features.0=24")
        result[name.strip()] = int(number)
    return result


@option
def rates(text: str) -> str | dict[str, float]:
    """A per-layer list such as `[0.45]*7+[0.0]`, only checked here, or `layer4.*=.7,layer3.*=.5`."""
    from prunus.target import parse_rates

    if "=" not in text:
        parse_rates(text)
        return text
    result: dict[str, float] = {}
    for part in names(text):
        name, _, number = part.rpartition("=")
        try:
            result[name.strip()] = float(number)
        except ValueError:
            name = ""
        if not name or not 0 <= result[name.strip()] < 1:
            raise InputError(f"{part!r} is no rate; give NAME=RATE pairs, RATE from 0 to below 1, such as layer4.*=.7")
    return result


@option
def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise InputError(f"{text!r} is not allowed; give a whole number of at least 0")
    return int(text)


@option
def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{text!r} is not allowed; give a whole number of at least 1")
    return int(text)


@option
def sizes(text: str) -> tuple[int, ...]:
    """`1,8` -> (1, 8): whole numbers of at least 1."""
    return tuple(positive.__wrapped__(part.strip()) for part in text.split(","))  # type: ignore[attr-defined]


@option
def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise InputError(f"{text!r} is not allowed; give a number, such as .01")
    return value


@option
def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    value = number(text)
    if not 0 <= value < 1:
        raise InputError(f"{text!r} is not allowed; give a fraction from 0 to below 1, such as .1")
    return value


@option
def rate_of_learning(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise InputError(f"{text!r} is not allowed; give a number above 0, such as .01")
    return number


def add_model(parser: argparse.ArgumentParser, *, weights: bool = True) -> None:
    """MODEL, --classes, --weights and --from."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="resnet56, torchvision/resnet50, timm/regnetx_004 or path/file.py:factory (see `prunus models`)",
    )
    group.add_argument("--classes", type=positive, metavar="N", help="size of the classifier (default: the data's)")
    if weights:
        group.add_argument(
            "--weights",
            metavar="FILE",
            help="a checkpoint: .safetensors (one of prunus.save with its cut), .pth, .pt, .th",
        )
    group.add_argument(
        "--from",
        dest="source",
        metavar="RUN",
        help="a folder that --out wrote, or its model.safetensors: model, weights and preprocessing come from it",
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    """--input."""
    parser.add_argument("--input", type=shape, metavar="C,H,W", help="shape of one example, such as 3,32,32")


def add_data(parser: argparse.ArgumentParser, *, files: bool = True) -> None:
    """--data and the preprocessing; with `files`, how it is read."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        metavar="DATA",
        help="digits, a hub id or a local folder of its parquet files, an image folder, .npz, path/file.py:factory",
    )
    group.add_argument("--mean", type=floats, metavar="A,B,C", help="subtracted from each channel of [0, 1] pixels")
    group.add_argument("--std", type=floats, metavar="A,B,C", help="divides each channel after that")
    group.add_argument(
        "--resize", type=resize, metavar="S|R,S", help="shorter side to S (or R), then the S x S pixels of the centre"
    )
    if not files:
        return
    group.add_argument("--stream", action="store_true", help="read from files all the time; large sets always are")
    group.add_argument("--workers", type=whole, metavar="N", help="processes that decode streamed images")
    group.add_argument("--skip-bad", action="store_true", help="leave out images that do not decode, and say which")


def add_task(parser: argparse.ArgumentParser) -> None:
    """--task."""
    parser.add_argument(
        "--task",
        metavar="TASK",
        help="what a batch means, its loss and metrics: classification (default), or path/file.py:Task",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """--device, --precision, --channels-last, --compile, --batch-size and --seed."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    group.add_argument("--precision", choices=PRECISIONS, default="fp32", help="arithmetic of forward passes")
    group.add_argument("--channels-last", action="store_true", help="images and weights in NHWC")
    group.add_argument("--compile", action="store_true", help="through torch.compile, with static shapes")
    group.add_argument("--batch-size", type=positive, default=128, metavar="N", help="examples a step (default 128)")
    group.add_argument("--seed", type=whole, default=0, metavar="N", help="seed of everything random (default 0)")


def add_training(parser: argparse.ArgumentParser, *, epochs: str, default: int, lr: float = 0.02) -> None:
    """The number of epochs under the name `epochs`, --lr and --augment."""
    group = parser.add_argument_group("training")
    group.add_argument(epochs, type=whole, default=default, metavar="N", help=f"epochs (default {default})")
    group.add_argument("--lr", type=rate_of_learning, default=lr, metavar="X", help=f"learning rate (default {lr})")
    group.add_argument(
        "--augment",
        choices=("auto", "none", "crop", "crop-flip"),
        default="auto",
        help="auto: random crop and mirror for colour images, nothing for grey ones",
    )


def add_budget(parser: argparse.ArgumentParser) -> None:
    """What shall go: --target, --rates, --widths, --drop; and --method, --pin."""
    group = parser.add_argument_group("what goes")
    group.add_argument(
        "--target",
        metavar="T",
        help="macs=50%%, params=1.2M, channels=70%%, latency=60%% or 8ms (see --on); several joined by commas, with "
        "round=8, min=4, scope=local or isomorphic, and blocks=-2 (the two residual blocks of the lowest scores go) or "
        "blocks=auto (as many as pay)",
    )
    group.add_argument(
        "--on",
        metavar="RUNTIME",
        help="where latency= is measured: eager (default), channels_last, compiled, onnxruntime, openvino",
    )
    add_rates(group)
    group.add_argument("--widths", type=widths, metavar="NAME=N,…", help="exact widths of layers or groups")
    group.add_argument("--drop", type=names, default=(), metavar="A,B", help="residual blocks to drop, by module name")
    group.add_argument("--method", default="magnitude", metavar="M", help="see `prunus methods` (default magnitude)")
    group.add_argument(
        "--pin", type=names, action="extend", default=[], metavar="A,B", help="modules or globs that stay whole"
    )
    add_attention(group)


def target_of(options: argparse.Namespace) -> str | None:
    """--target with --on. Raises InputError for a runtime with no latency to measure."""
    if options.on is None:
        return None if options.target is None else str(options.target)
    if options.target is None or "latency" not in options.target:
        raise InputError(f"--on {options.on} says where latency= is measured; give it with --target latency=60%")
    return f"{options.target},on={options.on}"


def add_way(parser: argparse.ArgumentParser) -> None:
    """--option, --steps, --schedule and --repair."""
    group = parser.add_argument_group("how it goes")
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method, such as p=1"
    )
    # `Fit` has steps and a schedule too, so these have other names inside.
    group.add_argument(
        "--steps", dest="cuts", type=positive, default=1, metavar="N", help="cuts, each scored anew (default 1)"
    )
    group.add_argument(
        "--schedule",
        dest="cut_schedule",
        choices=("linear", "cubic"),
        default="linear",
        help="how the budget falls over the steps; cubic: most of it early (default linear)",
    )
    group.add_argument(
        "--repair",
        type=names,
        default=(),
        metavar="A,B",
        help="after the cut, without training: reconstruct, fold, statistics (from images of the train part)",
    )


def add_attention(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """--attention."""
    group.add_argument(
        "--attention",
        choices=("heads", "width"),
        default="heads",
        help="what attention loses where both can go: whole heads, or the same slots of every head (default heads)",
    )


def add_rates(group: argparse._ArgumentGroup) -> None:
    """--rates and how they are read."""
    group.add_argument(
        "--rates", type=rates, metavar="R", help="removed fraction per layer: '[0.45]*7+[0.0]', or 'layer4.*=.7'"
    )
    group.add_argument(
        "--rates-layout",
        choices=("published", "forward"),
        default="published",
        help="what the entries mean: the order of the papers, or that of the groups (see `prunus inspect --rates`)",
    )
    group.add_argument(
        "--keep-rule",
        choices=("exact", "float-truncate"),
        default="exact",
        help="how a width is rounded down: exact decimals, or float64 as in the reference nets",
    )


def add_out(parser: argparse.ArgumentParser) -> None:
    """--out."""
    parser.add_argument("--out", metavar="DIR", help="write weights, plan and description here (see --from)")
