"""The methods by name. One file a method; a line here makes it known."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..errors import InputError, UnknownName
from .attach import Attached
from .bee_colony import ABC
from .controls import Random, Uniform
from .dcff import DCFF
from .fpgm import FPGM
from .gates import Gates
from .group_fisher import GroupFisher
from .held import Held
from .hrank import HRank
from .lamp import Lamp
from .magnitude import Magnitude
from .score import Method, Search
from .sensitivity import Sensitivity
from .slimming import Slimming
from .sparsity import Thinned
from .structured import SSL
from .taylor import Taylor
from .weights import Weights

METHODS: Mapping[str, tuple[Method | Search, str]] = MappingProxyType(
    {
        "magnitude": (Magnitude(), "L2 norm of the weights of a channel"),
        "l1": (Magnitude(p=1), "magnitude with the L1 norm"),
        "l2": (Magnitude(p=2), "magnitude with the L2 norm"),
        "lamp": (Lamp(), "share of a channel in the filter norms of its group that are not smaller"),
        "taylor": (Taylor(), "first-order change of the loss without the channel; needs data"),
        "group_fisher": (GroupFisher(), "Fisher information of a channel's mask, by the memory it takes; needs data"),
        "fpgm": (FPGM(), "distance of a filter to all others of its layer, nearest to the median first"),
        "ssl": (SSL(), "group lasso on filters, channels, kernel shapes or blocks, and their norms"),
        "group_l2": (SSL(form="group_l2"), "ssl with the squared penalty, which makes nothing sparse: a control"),
        "gates": (Gates(), "gates learned with the weights under a budget; trained by `prunus train --method gates`"),
        "slimming": (Slimming(), "scale of the norms that a channel passes"),
        "weights": (Weights(), "magnitude of single weights; zeros, not smaller layers"),
        "dcff": (DCFF(), "KL score of filters; fused in a training by `prunus train --method dcff`"),
        "hrank": (HRank(), "mean rank of a channel's feature maps; needs data"),
        "abc": (ABC(), "search for widths by an artificial bee colony; needs evaluate"),
        "sensitivity": (Sensitivity(), "greedy rates per group from measured curves; needs evaluate"),
        "random": (Random(), "control: by chance"),
        "uniform": (Uniform(), "control: the same fraction of every group, last channels first"),
    }
)


def method_of(given: str | Method | Search) -> Method | Search:
    """A method by name, or the configured object itself. Raises UnknownName, InputError."""
    if isinstance(given, str):
        if given not in METHODS:
            raise UnknownName.of("method", given, METHODS)
        return METHODS[given][0]
    if isinstance(given, type) or not any(callable(getattr(given, name, None)) for name in ("score", "search")):
        raise InputError(f"a method is a name or an object with a score() or search() function, not {given!r:.80}")
    return given


__all__ = [
    "ABC",
    "DCFF",
    "FPGM",
    "METHODS",
    "SSL",
    "Attached",
    "Gates",
    "GroupFisher",
    "HRank",
    "Held",
    "Lamp",
    "Magnitude",
    "Method",
    "Random",
    "Search",
    "Sensitivity",
    "Slimming",
    "Taylor",
    "Thinned",
    "Uniform",
    "Weights",
    "method_of",
]
