"""benchmarks/options.py: options as they are typed, and the codes with which scripts end."""

from __future__ import annotations

import argparse

import pytest

from prunus.errors import InputError


def test_options_as_they_are_typed() -> None:
    """They give the same options when they are typed again."""
    import shlex

    from options import add_network, add_training, parser_of, targets, typed

    made = parser_of("words")
    add_network(made, "resnet20")
    add_training(made, compile=True)
    made.add_argument("--targets", type=targets, default=())
    options = made.parse_args(["--mean", "0.5,0.25", "--no-compile", "--targets", "macs=50%,round=8;macs=30%"])
    found = typed(options, made, ())
    assert found == " --mean 0.5,0.25 --no-compile --targets 'macs=50%,round=8;macs=30%'"
    assert made.parse_args(shlex.split(found)) == options
    assert typed(options, made, ("mean", "targets")) == " --no-compile"


def test_the_codes(capsys: pytest.CaptureFixture[str]) -> None:
    from options import carried_out

    done = []

    def run(options: argparse.Namespace) -> list[str]:
        done.append("run")
        return ["a row failed"]

    def report(options: argparse.Namespace) -> None:
        done.append("report")

    def wrong(options: argparse.Namespace) -> None:
        raise InputError("no such row")

    def options(report: bool) -> argparse.Namespace:
        return argparse.Namespace(report=report, threads=0)

    assert carried_out(options(False), run, report) == 1 and capsys.readouterr().err == "a row failed\n"
    assert carried_out(options(True), run, report) == 0 and done == ["run", "report", "report"]
    assert carried_out(options(False), wrong, report) == 2 and capsys.readouterr().err == "no such row\n"
