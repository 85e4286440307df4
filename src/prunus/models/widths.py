"""What the constructors of the bundled nets check about the widths they are given."""

from __future__ import annotations

from collections.abc import Sequence

from prunus.errors import TargetError

__all__ = ["checked"]


def checked(net: str, widths: Sequence[int] | None, dense: Sequence[int], layout: str) -> tuple[int, ...]:
    """`widths` as a tuple, or `dense` where it is None.

    Raises TargetError where the number of widths is not that of the net, or one is not a whole number of at least 1.
    """
    if widths is None:
        return tuple(dense)
    if len(widths) != len(dense):
        raise TargetError(f"{net} takes {len(dense)} widths ({layout}), not {len(widths)}")
    for i, width in enumerate(widths):
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise TargetError(
                f"width {i} of {net} is {width!r}; it must be a whole number of at least 1 (dense: {dense[i]})"
            )
    return tuple(widths)
