"""What is coupled in a model. Knows torch ops; knows no method and no training."""

from .coupling import Attribute, Coupling, Form, Group, Member, Pinned, Work
from .labels import along
from .own import op, rule
from .residual import Residual
from .trace import couple

__all__ = [
    "Attribute",
    "Coupling",
    "Form",
    "Group",
    "Member",
    "Pinned",
    "Residual",
    "Work",
    "along",
    "couple",
    "op",
    "rule",
]
