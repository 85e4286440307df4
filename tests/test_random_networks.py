"""Whatever is built out of the usual blocks: the cut is exact and on budget. benchmarks/networks.py does hundreds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import BLOCKS, SIDE, Network, Spec

import prunus
from prunus.errors import TargetError
from prunus.testing import lively

EXAMPLE = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
SPECS = st.lists(
    st.tuples(st.sampled_from(sorted(BLOCKS)), st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=3
)


def check(spec: Spec, seed: int) -> prunus.Pruned:
    """Prune by chance to half of the MACs, or as far as it goes; prune() itself raises where the cut is not exact."""
    model = lively(Network(spec), seed)
    try:
        small = prunus.prune(model, EXAMPLE, "macs=50%", "random", seed=seed)
    except TargetError as error:
        assert "smallest" in str(error)
        small = prunus.prune(model, EXAMPLE, "channels=90%", "random", seed=seed)
        return small
    assert small.after.macs <= 0.5 * small.before.macs
    return small


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(SPECS, st.integers(0, 3))
def test_random_networks_are_cut_exactly(spec: Spec, seed: int) -> None:
    small = check(spec, seed)
    assert small.proof is not None
    assert small.proof.worst < 1e-8


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_every_block_loses_something_of_its_own(kind: str) -> None:
    small = check([(kind, 1, 1), ("plain", 2, 2)], 0)
    cut = [g.name for g, kept in zip(small.plan.groups, small.plan.widths, strict=True) if kept < g.width]
    assert any(name.startswith("blocks.0.") or name.startswith("stem") for name in cut), cut
    assert not small.coupling.unknown_ops
