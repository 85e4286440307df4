"""The grammar of per-layer rates, and how many channels a rate keeps."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.errors import InputError, TargetError
from prunus.rates import KEEP_RULES, kept, parse_rates, render_rates

RESNET56 = (
    "[0.6]+[0.7]+[0.5]+[0.5]+[0.4]+[0.2]+[0.3]+[0.4]+[0.8] + [0.7]+[0.6]+[0.9]+[0.8]+[0.9]+[0.8]+[0.4]+[0.2]+[0.2]"
    " + [0.7]+[0.3]+[0.8]+[0.4]+[0.3]+[0.7]+[0.2]+[0.4]+[0.8] + [0.0]+[0.0]+[0.0]"
)
GOOGLENET = (
    "[0.0]*2+[0.8]+[0.0]+[0.8]*2+[0.0]*2+([0.0]+[0.9]+[0.0]+[0.9]*2+[0.0]*2)*3"
    "+([0.0]+[0.8]+[0.0]+[0.8]*2+[0.0]*2)*3+([0.0]+[0.9]+[0.0]+[0.9]*2+[0.0]*2)*2"
)


def test_published_lists() -> None:
    assert parse_rates("[0.45]*7+[0.78]*5+[0.0]") == (0.45,) * 7 + (0.78,) * 5 + (0.0,)
    resnet = parse_rates(RESNET56)
    assert len(resnet) == 30 and resnet[8] == 0.8 and resnet[-3:] == (0.0, 0.0, 0.0)
    googlenet = parse_rates(GOOGLENET)
    assert len(googlenet) == 64 and googlenet[8:15] == (0.0, 0.9, 0.0, 0.9, 0.9, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("[0.]", (0.0,)),
        ("[.5]", (0.5,)),
        ("[0]", (0.0,)),
        ("[1e-3]", (0.001,)),
        ("  [ 0.5 ] * 2\n+ [ 0. ] ", (0.5, 0.5, 0.0)),
        ("[0.1, 0.2]*2", (0.1, 0.2, 0.1, 0.2)),
        ("[0.1, 0.2,]", (0.1, 0.2)),
        ("2*[0.1]", (0.1, 0.1)),
        ("2*[0.1]*2", (0.1,) * 4),
        ("(([0.1]+[0.2])*2+[0.3])*2", (0.1, 0.2, 0.1, 0.2, 0.3) * 2),
        ("[0.1]+[0.2]*2", (0.1, 0.2, 0.2)),
    ],
)
def test_the_text_means(text: str, rates: tuple[float, ...]) -> None:
    assert parse_rates(text) == rates


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a list such as [0.5], or '(', found the end (character 1)"),
        ("[0.45]*7+", "expected a list such as [0.5], or '(', found the end (character 10)"),
        ("[0.45]*7 [0.1]", "expected '+', '*' or the end, found '[' (character 10)"),
        ("[0.45]*", "found the end (character 8)"),
        ("[0.45", "expected ',' or ']', found the end (character 6)"),
        ("[]", "expected a rate, found ']' (character 2)"),
        ("([0.1]", "expected '+', '*' or ')', found the end (character 7)"),
        ("[0.1])", "found ')' (character 6)"),
        ("[1.0]", "at least 0 and below 1, not 1.0 (character 2)"),
        ("[1e999]", "at least 0 and below 1, not 1e999 (character 2)"),
        ("[-0.1]", "expected a rate, found '-' (character 2)"),
        ("[0.1]*0", "a count is a whole number of 1 or more, not 0 (character 7)"),
        ("[0.1]*2.5", "a count is a whole number of 1 or more, not 2.5"),
        ("[0.1]*[0.2]", "expected a whole number, found '[' (character 7)"),
        ("3*4", "expected '*' and a list, found the end"),
        ("__import__('os')", "found '_' (character 1)"),
        ("[0.1]*100001", "more than 100000 rates"),
        ("[0.1]*10**9", "found '*' (character 10)"),
        ("[0.1]*999999999*999999999", "more than 100000 rates"),
        ("([0.1]*1000)*1000", "more than 100000 rates"),
        ("[0.1]*100000+[0.1]*100000", "more than 100000 rates"),
        ("(" * 10_000, "parentheses more than 50 deep"),
        ("[0.1]*" + "9" * 5000, "a count is a whole number"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_rates(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_nothing_is_slow() -> None:
    start = time.perf_counter()
    parse_rates("[0.1]*100000" + "*1" * 10_000)
    assert len(parse_rates("+".join(["[0.5]"] * 50_000))) == 50_000
    assert time.perf_counter() - start < 5


rates = st.lists(st.floats(0, 1, exclude_max=True) | st.sampled_from((0.0, 0.5, -0.0)), min_size=1, max_size=30)


@settings(deadline=None)
@given(rates)
def test_what_is_written_is_read(values: list[float]) -> None:
    assert parse_rates(render_rates(values)) == tuple(values)


def test_runs_are_written_short() -> None:
    assert render_rates(parse_rates("[0.45]*7+[0.78]*5+[0.0]")) == "[0.45]*7+[0.78]*5+[0.0]"
    with pytest.raises(TargetError, match="below 1"):
        render_rates([0.5, 1.0])


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("[]()+*,. 0123459e-", max_size=40))
def test_any_text_is_rates_or_a_target_error(text: str) -> None:
    try:
        found = parse_rates(text)
    except TargetError as error:
        assert "\n" not in str(error)
    else:
        assert found and all(0 <= rate < 1 for rate in found)


def test_the_two_rules_differ_where_floats_do() -> None:
    assert kept(320, 0.9) == 32
    assert kept(320, 0.9, "float-truncate") == 31
    assert kept(512, 0.78) == kept(512, 0.78, "float-truncate") == 112
    assert kept(64, 0.0) == 64
    assert kept(4, 0.99) == kept(4, 0.99, "float-truncate") == 1


@settings(deadline=None)
@given(st.integers(1, 4096), st.integers(0, 999))
def test_exact_is_exact(width: int, thousandths: int) -> None:
    assert kept(width, thousandths / 1000) == max(1, width * (1000 - thousandths) // 1000)


def test_kept_refuses() -> None:
    with pytest.raises(TargetError, match="at least 0 and below 1"):
        kept(64, 1.0)
    with pytest.raises(TargetError, match="at least 0 and below 1"):
        kept(64, float("nan"))
    with pytest.raises(TargetError, match="nothing to keep"):
        kept(0, 0.5)
    with pytest.raises(InputError, match="did you mean 'exact'"):
        kept(64, 0.5, "exakt")
    assert KEEP_RULES == ("exact", "float-truncate")
