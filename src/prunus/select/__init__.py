"""From scores and a target to the channels that stay.

Steps are taken by ascending (score, group, index) until every budget holds; then, in reverse, each step that still
fits is restored. Both passes use exact integer costs.
"""

from .budget import impossible, least_possible, to_budget
from .costs import Costs, Floats, Ints
from .given import followed, to_widths
from .order import Ranking, ranking
from .steps import NONE, Steps, Unit, check_scores, removal_order, steps_of, units_of

__all__ = [
    "NONE",
    "Costs",
    "Floats",
    "Ints",
    "Ranking",
    "Steps",
    "Unit",
    "check_scores",
    "followed",
    "impossible",
    "least_possible",
    "ranking",
    "removal_order",
    "steps_of",
    "to_budget",
    "to_widths",
    "units_of",
]
