"""Temperatures: hand values of both schedules, the expression's arithmetic, and what it refuses."""

from __future__ import annotations

import math

import pytest

from prunus.errors import InputError
from prunus.methods.temperature import logistic, temperature, value_of

NAMES = {"epoch": 75, "epochs": 300, "args.num_epochs": 300}


def at(schedule: str, e: int, epochs: int) -> float:
    return temperature(schedule, e, epochs, ts=1.0, te=1e4, k=1.0)


def test_the_linear_schedule() -> None:
    for text in ("1 - epoch / args.num_epochs", "1 - epoch / epochs", "1-epoch/epochs"):
        assert [at(text, e, 300) for e in (0, 75, 299)] == [1.0, 0.75, 1 - 299 / 300]


def test_the_final_schedule() -> None:
    """T(e) = Ts + (Te − Ts)·tanh(ke/2) / tanh(kE/2): 1, 1 + 9999·.46211716/.96402758 = 4794.13, …, 10 000."""
    assert logistic(0, 4, 1, 1e4, 1) == pytest.approx(1, rel=1e-12)
    assert logistic(1, 4, 1, 1e4, 1) == pytest.approx(4794.13, abs=5e-3)
    assert logistic(4, 4, 1, 1e4, 1) == pytest.approx(1e4, rel=1e-12)
    for e in range(300):
        want = 1 + 9999 * math.tanh(e / 2) / math.tanh(150)
        assert at("logistic", e, 300) == pytest.approx(1 / want, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("1 - epoch / epochs * 2 + 3", 3.5),
        ("-2 ** 2 + 5", 1.0),
        ("2 ** -1", 0.5),
        ("2 ** 3 ** 2 / 512", 1.0),
        ("8 / 2 / 2", 2.0),
        ("(epochs - epoch) / (2 * epochs)", 0.375),
        ("+.5e0 * - -1.", 0.5),
    ],
)
def test_arithmetic(text: str, want: float) -> None:
    assert value_of(text, NAMES) == want


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("__import__('os')", r"unknown name '__import__' \(allowed: epoch, epochs, args.num_epochs\) \(character 1\)"),
        ("1 - epoc / epochs", r"unknown name 'epoc'; did you mean 'epoch'\?.*character 5"),
        ("epoch.__class__", "unknown name 'epoch.__class__'"),
        ("args.lr", "unknown name 'args.lr'"),
        ("epoch(1)", r"expected an operator or the end, found '\('"),
        ("(1 - epoch", r"expected '\)', found the end"),
        ("1 - ", "expected a number, 'epoch', 'epochs' or '\\(', found the end"),
        ("", "found the end"),
        ("epochs[0]", r"expected an operator or the end, found '\['"),
        ("1; 2", "expected an operator or the end, found ';'"),
        ("1 / (epochs - 300)", "has no value"),
        ("9 ** 9 ** 9 ** 9", "has no value"),
        ("(0 - 1) ** .5", "has no value"),
        ("(" * 99 + "1" + ")" * 99, "more than 30 parentheses"),
        ("1" + " + 1" * 99, "more than 200"),
    ],
)
def test_what_is_no_expression(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        value_of(text, NAMES)


def test_a_temperature_is_above_0() -> None:
    with pytest.raises(InputError, match=r"is 0 in epoch 10 of 10; it must be above 0"):
        at("1 - epoch / epochs", 10, 10)
    with pytest.raises(InputError, match=r"is inf in epoch 0"):
        at("1e308 * 10", 0, 10)
