"""The verbs that only look: cost, inspect, models, methods."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.cli import options as opt
from prunus.cli.verb import Reply, Verb

if TYPE_CHECKING:
    from torch import nn

    from prunus.graph import Coupling

__all__ = ["COST", "INSPECT", "METHODS", "MODELS"]


def cost_options(parser: argparse.ArgumentParser) -> None:
    """Options of `cost`."""
    opt.add_model(parser, weights=False)
    opt.add_input(parser)
    opt.add_rates(parser.add_argument_group("cut first"))
    parser.add_argument("--convention", default="macs", metavar="C", help="macs, thop, ptflops or thop-2020")
    parser.add_argument("--by-module", action="store_true", help="the macs of each module too")


def cost(options: argparse.Namespace) -> Reply:
    """What a model costs, whole or at given rates."""
    from prunus.cli.show import amount, say, table
    from prunus.cli.source import source
    from prunus.costs import cost as count
    from prunus.lab.job import Cut, make

    given, _ = source(options)
    model = given.model
    if options.rates is not None:
        cut = Cut(
            rates=options.rates,
            rates_layout=options.rates_layout,
            keep_rule=options.keep_rule,
            method="uniform",
            check=False,
        )
        model = make(model, given.example, cut).model
    counted = count(model, given.example, options.convention)
    data = {"model": given.description.model, "rates": options.rates, **counted.to_json()}
    if not options.by_module:
        del data["by_module"]

    def show() -> None:
        rule = "" if counted.convention == "macs" else f" ({counted.convention})"
        rows = [(f"macs{rule}", amount(counted.macs)), ("params", amount(counted.params))]
        rows.append(("bytes", amount(counted.bytes)))
        table((given.description.model, "per image" if counted.per == "sample" else "whole example"), rows)
        if options.by_module:
            table(("module", "macs"), ((name or "(itself)", amount(macs)) for name, macs in counted.by_module.items()))
        if counted.unsupported:
            say("not counted: " + ", ".join(counted.unsupported))

    return Reply(data, show)


def inspect_options(parser: argparse.ArgumentParser) -> None:
    """Options of `inspect`."""
    opt.add_model(parser, weights=False)
    opt.add_input(parser)
    opt.add_attention(parser)
    parser.add_argument("--rates", action="store_true", help="number, layers and width for each entry of a rate list")
    parser.add_argument("--html", metavar="FILE", help="draw the network, its groups coloured, as one HTML page")


def inspect(options: argparse.Namespace) -> Reply:
    """What is coupled in a model."""
    from prunus.api import trace
    from prunus.cli.show import say, table
    from prunus.cli.source import source
    from prunus.lab.network import page_of
    from prunus.lab.page import save

    given, _ = source(options)
    coupling = trace(given.model, given.example, attention=options.attention)
    data = {"model": given.description.model, **coupling_data(coupling)}
    lists = rate_lists(given.model, coupling) if options.rates else []
    if options.rates:
        data["rate_lists"] = lists
    if options.html is not None:
        save(page_of(coupling, given.description.model), Path(options.html))
        data["html"] = options.html

    def show() -> None:
        if not options.rates:
            say(str(coupling))
        if options.html is not None:
            say(f"the page: {options.html}")
        for entries in lists:
            rows = ((str(e["number"]), ", ".join(e["groups"]), "/".join(map(str, e["widths"]))) for e in entries)
            table(("number", "groups", "width"), rows, title=f"a list of {len(entries)} rates")

    return Reply(data, show)


def coupling_data(coupling: Coupling) -> dict[str, Any]:
    """Groups with what they tie, what is pinned and why, ops without a rule, layers not reached, blocks that can be
    dropped with the share of the MACs that goes with each, and blocks that cannot."""
    from prunus.graph.inspect import block_shares

    return {
        "groups": [
            {
                "name": group.name,
                "width": group.width,
                "step": group.step,
                "ties": [{"tensor": tie.tensor, "axis": tie.axis, "role": tie.role} for tie in group.members],
            }
            for group in coupling.groups
        ],
        "pinned": [{"name": pin.name, "width": pin.width, "reason": pin.reason} for pin in coupling.pinned],
        "unknown_ops": list(coupling.unknown_ops),
        "unreached": list(coupling.unreached),
        "prunable": coupling.prunable,
        "blocks": [
            {"name": block.name, "macs": share}
            for block, share in zip(coupling.blocks, block_shares(coupling), strict=True)
        ],
        "undroppable": [{"name": name, "reason": why} for name, why in coupling.undroppable.items()],
    }


def rate_lists(model: nn.Module, coupling: Coupling) -> list[list[dict[str, Any]]]:
    """For each list of rates that the model takes, which groups every entry sets."""
    from prunus.models import rate_order
    from prunus.widths import order_of

    lengths = sorted(rate_order(model) or {len(coupling.groups): ()})
    lists = []
    for length in lengths:
        order = order_of(model, coupling, length, "published")
        groups = [[coupling.groups[g] for g in entry] for entry in order]
        lists.append(
            [
                {"number": n, "groups": [group.name for group in entry], "widths": [group.width for group in entry]}
                for n, entry in enumerate(groups)
            ]
        )
    return lists


def models_options(parser: argparse.ArgumentParser) -> None:
    """Options of `models`."""
    parser.add_argument(
        "text", nargs="?", metavar="TEXT", help="every name with TEXT in it, torchvision's and timm's too"
    )


def models(options: argparse.Namespace) -> Reply:
    """The names a model may have: the bundled ones, and where a text is given those of torchvision and timm with it."""
    from prunus.cli.show import say
    from prunus.models import names

    text = (options.text or "").lower()
    found = {"bundled": [name for name in names() if text in name]}
    for source, listed in (("torchvision", torchvision_names), ("timm", timm_names)):
        found[source] = [f"{source}/{name}" for name in listed() if text in name] if text else []

    def show() -> None:
        for listed in found.values():
            for name in listed:
                say(name)
        if text and not any(found.values()):
            say(f"no model has {text!r} in its name")
        if not text:
            say("also torchvision/NAME (or bare NAME), timm/NAME, path/file.py:factory")
            say("`prunus models resnet` lists every name with resnet in it")

    return Reply(found, show)


def torchvision_names() -> list[str]:
    """What torchvision can build."""
    from torchvision.models import list_models

    return list(list_models())


def timm_names() -> list[str]:
    """What timm can build; nothing where it is not installed."""
    try:
        import timm
    except ImportError:
        return []
    return list(timm.list_models())


def methods_options(parser: argparse.ArgumentParser) -> None:
    """`methods` has no options of its own."""


def methods(options: argparse.Namespace) -> Reply:
    """The names a method may have, and what each one ranks by."""
    from prunus.cli.show import say
    from prunus.methods import METHODS as known

    width = max(map(len, known))

    def show() -> None:
        for name, (_, summary) in known.items():
            say(f"{name:<{width}}  {summary}")

    return Reply({"methods": [{"name": name, "summary": summary} for name, (_, summary) in known.items()]}, show)


COST = Verb(
    "cost",
    "Count multiply-accumulates, parameters and bytes.",
    "prunus cost resnet56 --input 3,32,32",
    cost_options,
    cost,
)
INSPECT = Verb(
    "inspect",
    "Show which channels must go together, what is pinned, and why.",
    "prunus inspect torchvision/resnet18 --input 3,224,224",
    inspect_options,
    inspect,
)
MODELS = Verb("models", "List the names a model may have.", "prunus models resnet", models_options, models)
METHODS = Verb("methods", "List the methods.", "prunus methods", methods_options, methods)
