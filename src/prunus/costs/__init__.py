"""What a model costs: four counting conventions, and the formulas beneath the default one.

The folder is not called `cost`, because `prunus.cost` is the function: importing a submodule would hide it.
"""

from prunus.costs.conventions import CONVENTIONS
from prunus.costs.formulas import attention_macs, bilinear_macs, conv_macs, linear_macs, matmul_macs
from prunus.costs.measure import cost
from prunus.costs.report import Cost, human

__all__ = [
    "CONVENTIONS",
    "Cost",
    "attention_macs",
    "bilinear_macs",
    "conv_macs",
    "cost",
    "human",
    "linear_macs",
    "matmul_macs",
]
