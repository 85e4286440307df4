"""The target: what its text means, what it refuses, and that the text comes back."""

from __future__ import annotations

import string
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.errors import TargetError
from prunus.target import Seconds, Target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("macs=50%", Target(macs=0.5)),
        ("macs=0.5", Target(macs=0.5)),
        ("macs=.5", Target(macs=0.5)),
        ("macs=1.0", Target(macs=1.0)),
        ("macs=100%", Target(macs=1.0)),
        ("macs=33.3%", Target(macs=0.333)),
        ("macs=57.54M", Target(macs=57_540_000)),
        ("macs=4.089184256G", Target(macs=4_089_184_256)),
        ("params=1.2M", Target(params=1_200_000)),
        ("params=1.2B", Target(params=1_200_000_000)),
        ("params=398744", Target(params=398_744)),
        ("params=400k", Target(params=400_000)),
        ("params=400K", Target(params=400_000)),
        ("params=0.5k", Target(params=500)),
        ("weights=30%", Target(weights=0.3)),
        ("latency=8ms", Target(latency=Seconds(0.008))),
        ("latency=8 ms", Target(latency=Seconds(0.008))),
        ("latency=250us", Target(latency=Seconds(0.00025))),
        ("latency=1.5s", Target(latency=Seconds(1.5))),
        ("latency=60%,on=onnxruntime", Target(latency=0.6, on="onnxruntime")),
        ("blocks=-2", Target(blocks=-2)),
        ("macs=50%,blocks=auto", Target(macs=0.5, blocks="auto")),
        (
            " macs = 50% , channels=70%, round=8,min=4, max_rate=90%,scope=local,fill=no",
            Target(macs=0.5, channels=0.7, round_to=8, min_channels=4, max_rate=0.9, scope="local", fill=False),
        ),
        ("macs=50%,max_rate=0.9,fill=yes", Target(macs=0.5, max_rate=0.9)),
    ],
)
def test_the_text_means(text: str, target: Target) -> None:
    assert Target.parse(text) == target


def test_eight_milliseconds_are_not_a_fraction() -> None:
    assert Target.parse("latency=8ms") != Target.parse("latency=0.8%")
    assert Target.parse("latency=8ms").limits({"latency": 0.02}) == {"latency": 0.008}
    assert Target.parse("latency=0.8%").limits({"latency": 0.02})["latency"] == pytest.approx(0.00016)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("round=8", "no budget"),
        ("blocks=0", "no budget"),
        ("flops=50%", "use macs="),
        ("FLOPs=50%", "use macs="),
        ("flops", "use macs="),
        ("mac=50%", "did you mean 'macs'"),
        ("parameters=50%", "did you mean 'params'"),
        ("max-rate=50%,macs=50%", "did you mean 'max_rate'"),
        ("macs=50%,macs=40%", "macs is given twice"),
        ("macs=50%,round=8,round=8", "round is given twice"),
        ("macs=100.01%", "above 100 %"),
        ("macs=250%", "above 100 %"),
        ("macs=1.5", "above 100 %"),
        ("macs=1", "could mean one or all"),
        ("macs=0%", "leaves nothing"),
        ("macs=0", "leaves nothing"),
        ("macs=0.0", "leaves nothing"),
        ("macs=-50%", "'-50%' is not a percentage"),
        ("macs=nan", "is not a percentage"),
        ("macs=inf", "is not a percentage"),
        ("macs=1e6", "is not a percentage"),
        ("macs=half", "is not a percentage"),
        ("macs=8ms", "is not a percentage"),
        ("macs=٥٠%", "is not a percentage"),
        ("macs=1.2345k", "no whole number"),
        ("macs", "not key=value"),
        ("macs=", "not key=value"),
        ("50%", "not key=value"),
        ("macs=50%,", "not key=value"),
        ("macs==50%", "is not a percentage"),
        ("latency=8", "needs a unit"),
        ("latency=8.5", "needs a unit"),
        ("latency=8M", "or a time (8ms)"),
        ("macs=50%,round=0", "round=0 is not a whole number of 1 or more"),
        ("macs=50%,round=1.5", "not a whole number"),
        ("macs=50%,min=-4", "min=-4 is not"),
        ("macs=50%,max_rate=0%", "max_rate=0%"),
        ("macs=50%,max_rate=110%", "max_rate=110%"),
        ("macs=50%,scope=globl", "did you mean 'global'"),
        ("blocks=2", "blocks=-2 drops two"),
        ("blocks=some", "neither a whole number, as -2, nor auto"),
        ("blocks=auto", "chooses for a budget; name one too"),
        ("macs=50%,fill=maybe", "neither yes nor no"),
        ("macs=50%,on=", "not key=value"),
        ("macs=50%,on=!", "not the name of a runtime"),
        ("macs=" + "9" * 500, "is not a percentage"),
        ("macs=0." + "0" * 350 + "1", "out of range"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        Target.parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "no budget"),
        ({"macs": 1.5}, "above 100 %"),
        ({"macs": 1}, "could mean one or all"),
        ({"macs": 0}, "leaves nothing"),
        ({"macs": -0.5}, "leaves nothing"),
        ({"macs": float("nan")}, "neither a fraction"),
        ({"macs": float("inf")}, "neither a fraction"),
        ({"macs": "50%"}, "neither a fraction"),
        ({"macs": True}, "neither a fraction"),
        ({"macs": Seconds(0.1)}, "only latency"),
        ({"latency": 8}, "needs a unit"),
        ({"latency": 8.5}, "needs a unit"),
        ({"macs": 0.5, "round_to": 0}, "round=0"),
        ({"macs": 0.5, "round_to": 8.0}, "round=8.0"),
        ({"macs": 0.5, "round_to": 10**30}, "1000000000 at most"),
        ({"macs": 0.5, "min_channels": 10**30}, "1000000000 at most"),
        ({"macs": 10**5000}, "macs=a number of more than 60 digits is out of range"),
        ({"macs": 0.5, "min_channels": True}, "min=True"),
        ({"macs": 0.5, "max_rate": 0.0}, "max_rate"),
        ({"macs": 0.5, "scope": "layer"}, "unknown scope"),
        ({"macs": 0.5, "blocks": 1}, "blocks=-2"),
        ({"macs": 0.5, "fill": 1}, "fill=1"),
        ({"macs": 0.5, "on": ""}, "runtime"),
    ],
)
def test_the_constructor_refuses_the_same(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(TargetError, match=says.replace("(", r"\(")):
        Target(**fields)


def test_a_time_is_finite_and_above_zero() -> None:
    for wrong in (0, -1.0, float("inf"), float("nan"), True):
        with pytest.raises(TargetError, match="finite time above 0"):
            Seconds(wrong)


def test_numbers_take_one_form() -> None:
    assert Target(macs=50_000_000).macs == 50_000_000
    assert isinstance(Target(macs=5e7).macs, int)
    assert isinstance(Target(macs=0.5, max_rate=1).max_rate, float)
    assert Target(macs=5e7) == Target.parse("macs=50M")


@pytest.mark.parametrize(
    "text",
    [
        "macs=50%,params=1.2M,round=8,min=4,max_rate=90%,scope=local",
        "macs=57.54M,channels=70%",
        "params=1234567",
        "macs=4.5G,blocks=-2,fill=no",
        "latency=8ms,on=onnxruntime",
        "latency=250us",
        "latency=1.5s",
        "weights=30%",
        "blocks=-2",
        "macs=100%",
    ],
)
def test_canonical_text_comes_back(text: str) -> None:
    assert str(Target.parse(text)) == text


fractions = st.floats(0, 1, exclude_min=True)
budgets = st.none() | fractions | st.integers(2, 10**15)


def measured(latency: Any, on: str, **rest: Any) -> Target:
    """A runtime is said with a latency alone."""
    return Target(latency=latency, on=on if latency else "eager", **rest)


targets = st.builds(
    measured,
    macs=budgets,
    params=budgets,
    channels=budgets,
    latency=st.none() | fractions | st.floats(1e-9, 1e6).map(Seconds),
    weights=fractions,
    round_to=st.integers(1, 64),
    min_channels=st.integers(1, 64),
    max_rate=fractions,
    scope=st.sampled_from(("global", "local", "isomorphic")),
    blocks=st.integers(-9, 0) | st.just("auto"),
    fill=st.booleans(),
    on=st.sampled_from(("eager", "onnxruntime", "openvino")),
)


@settings(deadline=None)
@given(targets)
def test_every_target_comes_back(target: Target) -> None:
    assert Target.parse(str(target)) == target


keys = st.sampled_from(("macs", "params", "latency", "round", "max_rate", "blocks", "fill", "on", "flops", "x"))
almost = st.lists(st.tuples(keys, st.text(string.digits + ".%kMmsu-+e \n", max_size=8)), max_size=4).map(
    lambda pairs: ",".join(f"{key}={value}" for key, value in pairs)
)


@settings(deadline=None)
@given(st.text(max_size=40) | almost)
def test_any_text_is_a_target_or_a_target_error(text: str) -> None:
    try:
        target = Target.parse(text)
    except TargetError as error:
        assert "\n" not in str(error)
    else:
        assert Target.parse(str(target)) == target


def test_limits_are_exact() -> None:
    # 0.29 · 100 is 28.999999999999996 in floats, and 29 is allowed.
    assert Target(macs=0.29).limits({"macs": 100}) == {"macs": 29}
    assert Target(macs=0.5, params=300_000).limits({"macs": 125_485_695, "params": 853_018, "channels": 2016}) == {
        "macs": 62_742_847,
        "params": 300_000,
    }
    assert Target(blocks=-2).limits({"macs": 100}) == {}
    assert Target(params=853_018).limits({"params": 853_018}) == {"params": 853_018}


def test_limits_refuse_more_than_there_is_and_what_is_unknown() -> None:
    with pytest.raises(TargetError, match=r"macs=200M is above 100 %: the dense model has 125 485 696"):
        Target(macs=200_000_000).limits({"macs": 125_485_696})
    with pytest.raises(TargetError, match=r"latency=8ms is above 100 %: the dense model has 5.01ms"):
        Target(latency=Seconds(0.008)).limits({"latency": 0.00501490001234})
    with pytest.raises(TargetError, match=r"a latency budget is not available here \(known: macs, params\)"):
        Target(latency=0.5).limits({"macs": 100, "params": 10})


def test_a_target_needs_no_torch() -> None:
    code = "import sys, prunus.target, prunus.rates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_dense_costs_are_told_in_whole_numbers() -> None:
    with pytest.raises(TargetError, match=r"macs=1.5M is above 100 %: the dense model has 179 772$"):
        Target(macs=1_500_000).limits({"macs": 179772.0})


def test_a_runtime_without_a_latency_means_nothing() -> None:
    with pytest.raises(TargetError, match="on=openvino says where latency= is measured; name one too"):
        Target.parse("macs=50%,on=openvino")
    assert Target.parse("on=openvino,latency=60%") == Target(latency=0.6, on="openvino")
