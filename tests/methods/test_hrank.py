"""Ranks of feature maps against torch.linalg.matrix_rank of one map after the other, and where they are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn

import prunus
from prunus.errors import DataError, InputError
from prunus.methods import HRank
from prunus.methods.hrank import ranks


def one_by_one(maps: Tensor) -> list[list[float]]:
    """The rank of each map, one decomposition at a time."""
    return [[float(torch.linalg.matrix_rank(m)) for m in sample] for sample in maps]


def test_ranks_by_hand() -> None:
    eye, ones, nothing = torch.eye(4), torch.ones(4, 4), torch.zeros(4, 4)
    two = torch.outer(torch.arange(4.0), torch.ones(4)) + torch.outer(torch.ones(4), torch.tensor([1.0, 0, 2, 5]))
    assert ranks(torch.stack([eye, ones, nothing, two])[None]).tolist() == [[4, 1, 0, 2]]
    assert ranks(torch.tensor([[[[0.0]], [[3.0]]]])).tolist() == [[0, 1]]
    assert ranks(torch.tensor([[0.0, 2.0]])).tolist() == [[0, 1]]


def test_ranks_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 5, 6, 4, generator=draw) @ torch.randn(3, 5, 4, 9, generator=draw)
    maps[:, 1] = F.relu(maps[:, 1] - 5)
    maps[0, 2, :, 3:] = 0
    assert ranks(maps).tolist() == one_by_one(maps)
    monkeypatch.setattr("prunus.methods.hrank.CHUNK", 100)  # a map or two at a time
    assert ranks(maps).tolist() == one_by_one(maps)


class Reads(nn.Module):
    """A stream, a block, a pool, and a head behind a flatten. `seen` holds the maps that a hook would see."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.last = (zoo.conv(i, o) for i, o in ((3, 6), (6, 4), (4, 6), (6, 5)))
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(5 * 16, 3)
        self.seen: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.seen["stem"] = F.relu(self.stem(x))
        y = self.seen["a"] = F.relu(self.norm(self.a(x)))
        x = F.relu(x + self.b(y))
        x = self.seen["last"] = F.relu(self.last(x) - 1)
        return self.head(F.max_pool2d(x, 2).flatten(1))  # type: ignore[no-any-return]


def test_maps_are_read_behind_the_activation_where_they_are_first_consumed() -> None:
    """The stream before its first block, and not after; the last layer before its pool. Two batches of other sizes."""
    model = zoo.lively(Reads())
    assert isinstance(model, Reads)
    coupling = prunus.trace(model, zoo.EXAMPLE)
    names = [group.name for group in coupling.groups]
    assert names == ["stem", "a", "last"]
    draw = torch.Generator().manual_seed(1)
    data = [torch.rand(n, 3, 8, 8, generator=draw) for n in (4, 2, 3)]
    found = HRank(batches=2).score(model, coupling, data=data)
    total: dict[str, list[list[float]]] = {name: [] for name in names}
    model.eval()
    with torch.no_grad():
        for x in data[:2]:
            model(x)
            for name in names:
                total[name] += one_by_one(model.seen[name])
    for name, score in zip(names, found, strict=True):
        np.testing.assert_allclose(score, np.mean(total[name], axis=0), rtol=1e-12)
    assert np.ptp(found[2]) > 0


def test_positions_behind_a_flatten_are_one_vector() -> None:
    """Rank 1 where any of a channel's positions is not zero."""
    model = nn.Sequential(zoo.conv(1, 3, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1))
    x = torch.tensor([[1.0, -1, 0, 0], [2.0, 3, 0, 0], [-1.0, 0, 0, 0]]).view(3, 1, 2, 2)
    (found,) = HRank().score(model, prunus.trace(model, x), data=[x])
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, 0])


def test_low_ranks_go_first_at_given_rates_and_nothing_is_changed() -> None:
    model = zoo.lively(Reads())
    data = [(torch.rand(4, 3, 8, 8), torch.arange(4))]
    score = HRank().score(model, prunus.trace(model, zoo.EXAMPLE), data=[data[0]])
    small = prunus.prune(model, zoo.EXAMPLE, method="hrank", rates="[0.5]*2+[0.4]", data=data)
    assert small.plan.widths == (3, 2, 3) and model.training
    for kept, ranks_ in zip(small.plan.kept, score, strict=True):
        assert min(ranks_[list(kept)]) >= max(np.delete(ranks_, list(kept)))


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="batches=0"):
        HRank(batches=0)
    with pytest.raises(InputError, match="hrank needs data="):
        prunus.prune(Reads(), zoo.EXAMPLE, "macs=50%", "hrank")
    with pytest.raises(DataError, match="gives no batch"):
        prunus.prune(Reads(), zoo.EXAMPLE, "macs=50%", "hrank", data=[])
