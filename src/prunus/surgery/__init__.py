"""Cut a model by a plan, and prove that the cut is exact."""

from ..models.dropped import Zero
from .cut import apply
from .proof import Proof, replay, verify, worst_of

__all__ = ["Proof", "Zero", "apply", "replay", "verify", "worst_of"]
