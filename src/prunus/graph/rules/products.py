"""Matrix products, products told in letters, bilinear layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...state import tensors_in
from ..labels import along, varying, vector
from ..record import Call
from ..splits import batched, product
from .mixing import belongs, finish
from .pointwise import join

LIKENESS = ("cosine_similarity", "pairwise_distance")


def letters(equation: str, shapes: Sequence[Sequence[int]]) -> tuple[list[list[str]], list[str]]:
    """The letter of each axis of each operand, and of the result. Axes of an ellipsis are counted from its right.
    Raises ValueError for a letter that an operand has twice: it takes a diagonal."""
    given, arrow, out = equation.replace(" ", "").partition("->")
    terms = []
    for term, shape in zip(given.split(","), shapes, strict=True):
        rest = len(shape) - len(term.replace("...", ""))
        dots = [f"…{rest - 1 - k}" for k in range(rest)]
        head, _, tail = term.partition("...")
        terms.append([*head, *dots, *tail] if "..." in term else list(term))
        if len(set(terms[-1])) < len(terms[-1]):
            raise ValueError(f"{term} takes a diagonal")
    every = [letter for term in terms for letter in term]
    dots = sorted({x for x in every if x.startswith("…")}, key=lambda x: -int(x[1:]))
    if not arrow:
        return terms, [*dots, *sorted(x for x in set(every) if every.count(x) == 1 and not x.startswith("…"))]
    head, _, tail = out.partition("...")
    return terms, [*head, *dots, *tail] if "..." in out else list(out)


def contraction(call: Call, a: Tensor, b: Tensor, out: Tensor) -> list[Tensor]:
    """a (…, n, k) times b (…, k, m)."""
    if a.dim() == 1 or b.dim() == 1:
        return with_vector(call, a, b, out)
    shape = [*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]]
    shared = call.tracer.axis(a, -1, "in")
    call.book.unite(shared, call.tracer.axis(b, -2, "in"))
    for t in (a, b):
        batched(call, t)
    product(call, a, out, shared)

    def carried(t: Tensor, axis: int) -> tuple[Tensor, list[Tensor]]:
        planes = [p.narrow(axis, 0, 1) for p in call.label(t).planes if t.dim() + axis not in varying(p)]
        return t.narrow(axis, 0, 1), planes

    planes = join(call, shape, [carried(a, -1), carried(b, -2)])
    rows, columns = (next((p for p in planes if len(shape) + d in varying(p)), None) for d in (-2, -1))
    vectors = [shared]
    for d, plane in ((-2, rows), (-1, columns)):
        if plane is not None:
            vectors.append(vector(plane, d))
    lead = ((p, axis) for p in planes for axis in varying(p) if axis < len(shape) - 2)
    vectors += [vector(p, axis) for p, axis in lead][:1]
    spelled = 1
    for v in vectors:
        spelled *= v.numel()
    call.book.work(call.path, call.index, out.numel() * shared.numel() // spelled, vectors)
    return planes


def with_vector(call: Call, a: Tensor, b: Tensor, out: Tensor) -> list[Tensor]:
    """A product of which one operand at least is a vector, which is read along its only axis."""
    dots = [f"…{d}" for d in range(max(a.dim(), b.dim()) - 3, -1, -1)]
    mine = ["k"] if a.dim() == 1 else [*dots, "n", "k"]
    other = ["k"] if b.dim() == 1 else [*dots, "k", "m"]
    return told(call, out, [a, b], [mine, other], [x for x in (*mine, *other) if x != "k"])


def matmul(call: Call, out: Tensor) -> list[Tensor]:
    """`@`, `matmul`, `mm`, `bmm`, `mv`, `dot`, `vdot`."""
    a, b = tensors_in([*call.args, *call.kwargs.values()])[:2]
    if call.func.__name__ == "__rmatmul__":
        a, b = b, a
    return contraction(call, a, b, out)


def addmm(call: Call, out: Tensor) -> list[Tensor]:
    """`addmm`, `baddbmm`: a product added to a first operand."""
    first, a, b = call.args[:3]
    planes = contraction(call, a, b, out)
    return join(call, out.shape, [(first, call.label(first).planes), (out, planes)])


def einsum(call: Call, out: Tensor) -> list[Tensor]:
    """`einsum`: axes of one letter go together. A letter that the result lacks is summed over, as in a product."""
    equation, *operands = call.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if not isinstance(equation, str):
        raise TypeError("operands with lists of axes")
    return told(call, out, operands, *letters(equation, [t.shape for t in operands]))


def tensordot(call: Call, out: Tensor) -> list[Tensor]:
    """`tensordot`: the last axes of one with the first of the other, or those that are said."""
    a, b, dims = call.get(0, "a"), call.get(1, "b"), call.get(2, "dims", 2)
    if isinstance(dims, Tensor):
        raise TypeError("its axes are in a tensor")
    pairs = ([*range(-dims, 0)], [*range(dims)]) if isinstance(dims, int) else dims
    mine, other = [f"a{axis}" for axis in range(a.dim())], [f"b{axis}" for axis in range(b.dim())]
    for p, q in zip(*pairs, strict=True):
        other[q] = mine[p]
    shared = {*mine} & {*other}
    return told(call, out, [a, b], [mine, other], [x for x in (*mine, *other) if x not in shared])


def distances(call: Call, out: Tensor) -> list[Tensor]:
    """`cdist`: rows of one against rows of the other, read along the last axes of both."""
    a, b = call.get(0, "x1"), call.get(1, "x2")
    terms = [[*(f"…{k}" for k in range(t.dim() - 3, -1, -1)), row, "m"] for t, row in ((a, "p"), (b, "r"))]
    dots = max((term[:-2] for term in terms), key=len)
    return told(call, out, [a, b], terms, [*dots, "p", "r"], works=False)


def told(
    call: Call,
    out: Tensor,
    operands: Sequence[Tensor],
    terms: Sequence[Sequence[str]],
    result: Sequence[str],
    works: bool = True,
) -> list[Tensor]:
    """A product of operands, or what is like one, by the letter of each axis. works: its arithmetic is counted."""
    found: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    both: set[str] = set()
    for t, term in zip(operands, terms, strict=True):
        for axis, letter in enumerate(term):
            if t.shape[axis] > 1:
                ids = call.axis(t, axis, "out" if letter in result else "in")
                if letter in found:
                    call.book.unite(found[letter], ids)
                    both.add(letter)
                found[letter] = ids if letter not in found or not bool((found[letter] >= 0).any()) else found[letter]
                sizes[letter] = t.shape[axis]
    free = {letter: ids for letter, ids in found.items() if bool((ids >= 0).any())}
    summed = [letter for letter in both if letter not in result]
    for t, term in zip(operands, terms, strict=True):
        batched(call, t, {a for a, letter in enumerate(term) if letter in both and letter in result})
    if works and len(operands) == 2 and summed:
        if len(summed) == 1:
            product(call, operands[0], out, found[summed[0]])
        used = [letter for letter in sizes if letter in result or letter in both]
        times = math.prod(sizes[letter] for letter in used if letter not in free)
        call.book.work(call.path, call.index, times, [free[letter] for letter in used if letter in free])
    return [along(free[letter], axis, out.shape) for axis, letter in enumerate(result) if letter in free]


def bilinear(call: Call, out: Tensor) -> list[Tensor]:
    """`F.bilinear`: y_o = a W_o bᵀ over the last axes."""
    a, b, weight, bias = (call.get(i, n) for i, n in enumerate(("input1", "input2", "weight", "bias")))
    made = call.axis(weight, 0, "out")
    reads = []
    for place, (x, name) in enumerate(((a, "in1_features"), (b, "in2_features")), start=1):
        reads.append(call.axis(weight, place, "in"))
        call.book.unite(call.read(x, -1), reads[-1])
        if belongs(call, weight, nn.Bilinear):
            call.book.count("attribute", call.path, 0, name, reads[-1])
    if belongs(call, weight, nn.Bilinear):
        call.book.count("attribute", call.path, 0, "out_features", made)
    call.book.work(call.path, call.index, out.numel() // out.shape[-1], [made, *reads])
    for plane in call.label(b).planes:
        if b.dim() - 1 not in (d for d in range(plane.dim()) if plane.stride(d) and plane.shape[d] > 1):
            call.book.pin(plane, f"{call.name} multiplies over it")
    return finish(call, a, out, bias, made, out.dim() - 1, [a.dim() - 1])


def likeness(call: Call, out: Tensor) -> list[Tensor]:
    """`cosine_similarity`, `pairwise_distance`: both operands are read along one axis, entry by entry."""
    a, b, dim = call.args[0], call.args[1], axis_read(call)
    planes = join(call, torch.broadcast_shapes(a.shape, b.shape), [(t, call.label(t).planes) for t in (a, b)])
    left = [p.narrow(dim, 0, 1) for p in planes if dim % p.dim() not in varying(p)]
    return [(p if out.dim() == p.dim() else p.select(dim, 0)).expand(out.shape) for p in left]


def axis_read(call: Call) -> int:
    """The axis along which two tensors are compared."""
    return int(call.get(2, "dim", 1)) if call.func.__name__ == "cosine_similarity" else -1


def outer(call: Call, out: Tensor) -> list[Tensor]:
    """`outer`, `ger`: each entry of one vector times each of the other."""
    return told(call, out, [call.get(0, "input"), call.get(1, "vec2")], [["n"], ["m"]], ["n", "m"])


PRODUCTS: dict[str, Any] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot", "__matmul__", "__rmatmul__"), matmul),
    **dict.fromkeys(("addmm", "baddbmm"), addmm),
    **dict.fromkeys(("outer", "ger"), outer),
    **dict.fromkeys(LIKENESS, likeness),
    "einsum": einsum,
    "tensordot": tensordot,
    "cdist": distances,
    "bilinear": bilinear,
}
