"""How long a network takes: measured, in pairs, with what the machine's noise allows to say."""

from ..timing import Latency, Timing
from .measure import Bench, Row, bench
from .pairs import Sample, Spread, interleaved, quiet, ratio_of, spread_of
from .runners import RUNNERS

__all__ = [
    "RUNNERS",
    "Bench",
    "Latency",
    "Row",
    "Sample",
    "Spread",
    "Timing",
    "bench",
    "interleaved",
    "quiet",
    "ratio_of",
    "spread_of",
]
