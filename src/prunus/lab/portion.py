"""A part of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from prunus.engine.data import Split, Stream
from prunus.errors import InputError

__all__ = ["limited"]


def limited(part: Any, limit: int) -> Any:
    """At most so many samples of a part, evenly of all classes, always the same ones. Raises InputError for batches of
    the user's own, which nothing says how to shorten."""
    if part is None:
        return None
    if not isinstance(part, Split | Stream):
        raise InputError(f"limit={limit} shortens images in memory or in files; loaders of your own come as they are")
    return part if len(part) <= limit else part.subset(torch.from_numpy(drawn(part.labels.numpy(), limit)))


def drawn(labels: Any, limit: int) -> Any:
    """The places of `limit` samples, ascending: of each class its share, what rounding leaves to the largest
    remainders. The draw uses numpy's frozen legacy stream, so it is the same in every version."""
    random = np.random.RandomState(0)
    _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shares = counts * (limit / len(labels))
    take = np.floor(shares).astype(np.int64)
    take[np.argsort(take - shares, kind="stable")[: limit - take.sum()]] += 1
    members = [random.permutation(np.flatnonzero(places == k))[:count] for k, count in enumerate(take)]
    return np.sort(np.concatenate(members))
