"""The verb that writes a network as a file for elsewhere."""

from __future__ import annotations

import argparse

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb
from prunus.errors import InputError

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


def export(options: argparse.Namespace) -> Reply:
    """Write the network, once what the file computes was checked."""
    from prunus.cli.show import say
    from prunus.cli.source import source
    from prunus.exporting import OPSET, form
    from prunus.exporting import export as written
    from prunus.lab import folder
    from prunus.models import maker

    if options.out is None:
        raise InputError("nowhere to write; give --out FILE, such as --out small.onnx")
    kind, _ = form(options.out, options.format)
    options.data = None
    given, _ = source(options)
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
    )
    return Reply({"model": description.model, **found.to_json()}, lambda: say(str(found)))


EXPORT = Verb(
    "export",
    "Write a network as a file that runs without Prunus, checked against the network itself.",
    "prunus export --from small --out small.onnx",
    export_options,
    export,
)
