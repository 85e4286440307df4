"""The verb that measures how much each group can lose."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb

if TYPE_CHECKING:
    from prunus.lab.page import Page
    from prunus.methods.sensitivity import Curves

__all__ = ["SENSITIVITY"]


def sensitivity_options(parser: argparse.ArgumentParser) -> None:
    """Options of `sensitivity`."""
    opt.add_model(parser)
    opt.add_data(parser)
    opt.add_task(parser)
    group = parser.add_argument_group("what is measured")
    group.add_argument("--method", default="magnitude", metavar="M", help="what ranks the channels of a group")
    group.add_argument(
        "--at", type=opt.floats, default=(0.1, 0.3, 0.5, 0.7, 0.9), metavar="A,B", help="removed fractions"
    )
    group.add_argument(
        "--images", type=opt.positive, default=2000, metavar="N", help="of the train part, evenly of all classes"
    )
    group.add_argument("--html", metavar="FILE", help="draw the curves as one HTML page")
    opt.add_attention(group)
    opt.add_machine(parser)


def sensitivity(options: argparse.Namespace) -> Reply:
    """One curve a group: the measure with so much of the group cut, all others whole."""
    from dataclasses import asdict, replace

    from prunus.cli.show import say, table
    from prunus.cli.source import runtime, task, with_data
    from prunus.lab.page import save
    from prunus.lab.portion import limited
    from prunus.lab.supplies import supplies
    from prunus.methods import Sensitivity, method_of
    from prunus.methods.sensitivity import sensitivity as measured

    where = runtime(options)
    given, data = with_data(options)
    where.settled(given.model)
    part = replace(data, train=limited(data.train, options.images), validation=None)
    read = supplies(Sensitivity(), part, runtime=where, task=task(options))
    assert read.evaluate is not None
    found = measured(
        given.model,
        given.example.to(where.torch_device),
        read.evaluate,
        method=method_of(options.method),
        rates=options.at,
        attention=options.attention,
        seed=where.seed,
        data=read.data,
        loss=read.loss,
    )
    name = given.description.model
    answer = {"model": name, "method": options.method, **asdict(found), "html": options.html}
    if options.html is not None:
        save(page_of(found, name, options.method), Path(options.html))

    def show() -> None:
        rows = [
            (curve.group, str(curve.widths[0]), *(f"{curve.near(rate):.2f}" for rate in (0.0, *options.at)))
            for curve in found.curves
        ]
        table(("group", "width", "whole", *(f"-{100 * rate:.0f} %" for rate in options.at)), rows)
        if options.html is not None:
            say(f"the page: {options.html}")

    return Reply(answer, show)


def page_of(found: Curves, name: str, method: str) -> Page:
    """The page with one small plot a group."""
    from prunus.lab.page import Page, Section
    from prunus.lab.plots import Line, Plots

    lines = tuple(
        Line(
            f"{curve.group} ({curve.widths[0]})",
            tuple((100 * rate, value) for rate, value in zip(curve.rates, curve.values, strict=True)),
        )
        for curve in found.curves
    )
    text = f"One group is cut at a time, its channels ranked by {method}; all others are whole, nothing is fine-tuned."
    plots = Plots(lines, "removed channels of the group in percent", "measure", found.dense)
    lead = f"Whole, the network measures {found.dense:.4g} on these images."
    return Page(f"{name}: sensitivity", lead, (Section("What each group can lose", text, plots),))


SENSITIVITY = Verb(
    "sensitivity",
    "Measure how much each group can lose, one at a time.",
    "prunus sensitivity resnet20 --weights resnet20.th --data cifar10 --html sensitivity.html",
    sensitivity_options,
    sensitivity,
)
