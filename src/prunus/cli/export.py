"""The verb that writes a network as a file for elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb
from prunus.errors import InputError

if TYPE_CHECKING:
    from prunus.engine.data import Data
    from prunus.exporting import Int8

__all__ = ["EXPORT"]


def export_options(parser: argparse.ArgumentParser) -> None:
    """Options of `export`."""
    opt.add_model(parser)
    opt.add_input(parser)
    group = parser.add_argument_group("file")
    group.add_argument(
        "--format", metavar="F", help="pt2, onnx, openvino or python (default: by the suffix .pt2, .onnx, .xml, .py)"
    )
    group.add_argument("--out", metavar="FILE", help="where it goes; weights of openvino and python lie beside it")
    group.add_argument(
        "--dense", action="store_true", help="also the bytes of the dense network, exported the same way"
    )
    group.add_argument("--static", action="store_true", help="for one example at a time, not for any batch size")
    group.add_argument("--opset", type=opt.positive, metavar="N", help="version of ONNX's operators (default 20)")
    group.add_argument(
        "--limit",
        type=opt.number,
        default=1e-4,
        metavar="X",
        help="largest difference from the eager network that passes, relative to the output's largest value",
    )
    rounded = parser.add_argument_group("int8, for .onnx (ONNX Runtime) and .pt2 (torchao)")
    rounded.add_argument("--int8", action="store_true", help="quantize after the check, and measure on the test part")
    rounded.add_argument(
        "--calibrate", type=opt.positive, metavar="N", help="images of the train part for the ranges (default 256)"
    )
    rounded.add_argument("--measure", type=opt.positive, metavar="N", help="test images at most (default: all)")
    rounded.add_argument(
        "--floor", type=opt.fraction, metavar="X", help="least agreement with the float network (default .8)"
    )
    rounded.add_argument("--reduce-range", action="store_true", help="7 bits, for x86 processors without VNNI")
    opt.add_data(parser)


def export(options: argparse.Namespace) -> Reply:
    """Write the network, once what the file computes was checked."""
    from prunus.cli.show import say
    from prunus.cli.source import source
    from prunus.exporting import OPSET, form
    from prunus.exporting import export as written
    from prunus.lab import exports, folder
    from prunus.models import maker

    if options.out is None:
        raise InputError("nowhere to write; give --out FILE, such as --out small.onnx")
    kind, _ = form(options.out, options.format)
    check_int8(options)
    given, data = source(options, needs_data=options.int8)
    description = given.description
    found = written(
        given.model,
        given.example,
        options.out,
        format=options.format,
        dense=folder.build(description) if options.dense else False,
        build=maker(description.model, description.classes) if kind == "python" else None,
        dynamic=not options.static,
        opset=options.opset or OPSET,
        limit=options.limit,
        int8=None if data is None else int8(options, data),
    )
    noted = None
    if options.int8 and options.source is not None:
        noted = exports.noted(Path(options.source), found, options.data)
    answer = {"model": description.model, **found.to_json(), "noted": None if noted is None else str(noted)}
    return Reply(answer, lambda: say(str(found) if noted is None else f"{found}\nnoted in {noted}"))


def check_int8(options: argparse.Namespace) -> None:
    """Raises InputError for options that mean nothing without --int8."""
    if not options.int8:
        names = ("data", "calibrate", "measure", "floor", "reduce_range")
        alone = [name for name in names if getattr(options, name) not in (None, False)]
        if alone:
            raise InputError(f"--{alone[0].replace('_', '-')} is for --int8; leave it out, or add --int8")


def int8(options: argparse.Namespace, data: Data) -> Int8:
    """The settings of the options: ranges from the train part, measured on the test part."""
    from prunus.engine.data import Split, Stream, batches
    from prunus.exporting import Int8

    def feed(part: Any, shuffle: bool) -> Any:
        if not isinstance(part, Split | Stream):
            return part
        return batches(part, batch_size=64, mean=data.mean, std=data.std, shuffle=shuffle)

    for name, part in (("train", data.train), ("test", data.test)):
        if isinstance(part, Split | Stream) and not len(part):
            raise InputError(f"--int8: {options.data} has no {name} part")
    return Int8(
        feed(data.train, True),
        options.calibrate or 256,
        feed(data.test, False),
        options.measure,
        0.8 if options.floor is None else options.floor,
        options.reduce_range,
    )


EXPORT = Verb(
    "export",
    "Write a network as a file that runs without Prunus, checked against the network itself.",
    "prunus export --from small --out small.onnx",
    export_options,
    export,
)
