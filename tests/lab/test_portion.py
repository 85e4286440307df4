"""At most so many samples: never one more, and evenly."""

from __future__ import annotations

import pytest
import torch

from prunus.engine.data import Split
from prunus.errors import InputError
from prunus.lab.portion import limited


@pytest.mark.parametrize("limit", [1, 3, 5, 15, 25, 40, 41, 99])
def test_so_many_and_no_more(limit: int) -> None:
    labels = torch.tensor([0] * 4 + [1] * 12 + [2] * 25)
    part = Split(torch.arange(41, dtype=torch.uint8).reshape(41, 1, 1, 1), labels)
    some, again = limited(part, limit), limited(part, limit)
    assert len(some) == min(limit, 41) and torch.equal(some.images, again.images)
    counts = torch.bincount(some.labels, minlength=3)
    shares = torch.tensor([4, 12, 25]) * min(limit, 41) / 41
    assert ((counts - shares).abs() < 1).all()
    assert (some.images.flatten().diff() > 0).all()  # in their order


def test_loaders_are_not_shortened() -> None:
    feed = [(torch.zeros(4, 1, 2, 2), torch.zeros(4).long())]
    with pytest.raises(InputError, match="limit=2 shortens images"):
        limited(feed, 2)
    assert limited(None, 2) is None
