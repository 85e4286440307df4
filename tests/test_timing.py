"""A budget of seconds in selection, where seconds are not monotone: against every step of the order, one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from prunus.api import trace
from prunus.errors import TargetError
from prunus.graph.coupling import Coupling
from prunus.select import least_possible, ranking, to_budget
from prunus.target import Target
from prunus.timing import RUN, Floats, Ints, Timing

WIDTHS = (24, 16, 8)


def coupling() -> Coupling:
    torch.manual_seed(0)
    made = [nn.Conv2d(a, b, 1) for a, b in zip((3, *WIDTHS), (*WIDTHS, 2), strict=True)]
    return trace(nn.Sequential(*made), torch.randn(1, 3, 2, 2))


def scores(seed: int) -> list[Floats]:
    draw = np.random.default_rng(seed)
    return [draw.random(width) for width in WIDTHS]


def seconds(widths: Ints) -> Floats:
    """Vectors of 8 in every layer, and odd widths twice as slow."""
    chain = np.concatenate([np.full((len(widths), 1), 3), widths, np.full((len(widths), 1), 2)], axis=1)
    slow = np.where(chain[:, 1:] % 2, 2.0, 1.0)
    return np.asarray((-(-chain[:, :-1] // 8) * -(-chain[:, 1:] // 8) * slow).sum(axis=1) * 1e-3, np.float64)


def one(widths: Ints | Sequence[int]) -> float:
    return float(seconds(np.array([widths], np.int64))[0])


DENSE = one(WIDTHS)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.45])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("extra", ["", ",macs=70%", ",round=2"])
def test_the_first_cut_that_fits_and_no_run_that_fits_back(share: float, seed: int, extra: str) -> None:
    found, given = coupling(), scores(seed)
    timing = Timing(seconds, share * DENSE, DENSE)
    target = Target.parse(f"latency={100 * share:g}%{extra}")
    most = 0.7 * found.macs() if "macs" in extra else found.macs()
    ranked = ranking(found, given, target)
    path = [ranked.widths(n) for n in range(ranked.count + 1)]
    fits = [one(widths) <= timing.limit and found.macs(widths.tolist()) <= most for widths in path]
    plain = Target.parse(f"latency={100 * share:g}%{extra},fill=no")
    assert [k.size for k in to_budget(found, given, plain, timing=timing)] == path[fits.index(True)].tolist()
    kept = to_budget(found, given, target, timing=timing)
    widths = np.array([k.size for k in kept])
    assert one(widths) <= timing.limit and found.macs(widths.tolist()) <= most
    step = 2 if "round" in extra else 1
    for g, width in enumerate(WIDTHS):
        for more in range(step, min(RUN * step, width - widths[g]) + 1, step):
            trial = widths.copy()
            trial[g] += more
            assert one(trial) > timing.limit or found.macs(trial.tolist()) > most, (widths, trial)
    for ids, score in zip(kept, given, strict=True):  # what stays scores highest
        gone = np.setdiff1d(np.arange(score.size), ids)
        assert not gone.size or score[gone].max() < score[ids].min()


def test_the_path_is_that_of_one_step_after_the_other() -> None:
    found, given = coupling(), scores(0)
    ranked = ranking(found, given, Target.parse("macs=50%"))
    for start, stop in ((0, 1), (0, 5), (3, ranked.count + 1), (ranked.count, ranked.count + 1)):
        rows = ranked.path(start, stop)
        assert rows.tolist() == [ranked.widths(n).tolist() for n in range(start, stop)]


def test_the_smallest_possible_is_named() -> None:
    found, given = coupling(), scores(1)
    target = Target.parse("latency=1%")
    timing = Timing(seconds, 0.01 * DENSE, DENSE)
    ranked = ranking(found, given, target)
    least = min(one(ranked.widths(n)) for n in range(ranked.count + 1))
    assert least_possible(found, given, target, (), timing) == least
    with pytest.raises(TargetError, match=f"the smallest possible is {1e3 * least:.3g} ms"):
        to_budget(found, given, target, timing=timing)
    kept = to_budget(found, given, target, timing=Timing(seconds, least, DENSE))
    assert one([k.size for k in kept]) == least


def test_a_latency_without_timing_is_refused() -> None:
    with pytest.raises(TargetError, match="a latency budget is not available here"):
        to_budget(coupling(), scores(0), Target.parse("latency=50%"))
