"""Recurrent layers and cells, on padded and on packed batches.

A unit is one channel: its rows of every gate with their biases, the columns that read it at the next step and in the
next layer, and its entry of every state. Without its rows it starts at zero and stays there, so that the cut network
computes what the masked one does, over any number of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from ..labels import along, varying
from ..record import Call

STEPS = "it runs along the steps, the batch or the layers of a recurrent layer"
OWN = ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
RUN = 9
"""Arguments of a recurrent layer, on padded and on packed batches."""


def recurrent(call: Call, out: Any) -> list[list[Tensor]]:
    """`lstm`, `gru`, `rnn_tanh`, `rnn_relu` of nn.RNNBase. All layers and directions have one width, so unit j of each
    is one channel: its rows of every gate, the columns that read it, its entry of every state. A projection is another.
    """
    x, module, results = call.args[0], call.module, [t for t in tree_iter(out) if isinstance(t, Tensor)]
    if not isinstance(module, nn.RNNBase) or len(call.args) != RUN:
        raise TypeError("not by nn.LSTM, nn.GRU or nn.RNN")
    states = call.args[2 if packed(call.args) else 1]
    ends = [""] + ["_reverse"] * module.bidirectional
    steps = x.numel() // x.shape[-1]
    first = read = call.read(x, -1)
    unit = state = None
    for layer in range(module.num_layers):
        for end in ends:
            given, fed, projection, *biases = (module._parameters.get(f"{name}_l{layer}{end}") for name in OWN)
            made = unit = gates(call, (given, fed, *biases), unit)
            if projection is not None:
                made = call.axis(projection, 0, "out")
                call.book.unite(call.axis(projection, 1, "in"), unit)
                call.book.work(call.path, call.index, steps, [made, unit])
            state = made if state is None else state
            call.book.unite(made, state)
            products(call, given, read, unit, steps)
            products(call, fed, state, unit, steps)
        assert state is not None
        read = torch.cat([state] * len(ends))
    assert unit is not None and state is not None
    starts = [t for t in tree_iter(states) if isinstance(t, Tensor)]
    lines = [state, unit][: len(starts)]
    for tensor, ids in zip(starts, lines, strict=True):
        call.book.unite(call.read(tensor, -1), ids)
    for tensor in (x, *starts):
        alone(call, tensor)
    call.book.count("attribute", call.path, 0, "input_size", first)
    call.book.count("attribute", call.path, 0, "hidden_size", unit)
    if module.proj_size:
        call.book.count("attribute", call.path, 0, "proj_size", state)
    return [[along(ids, t.dim() - 1, t.shape)] for ids, t in zip((read, *lines), results, strict=True)]


def packed(args: Sequence[Any]) -> bool:
    """Whether a recurrent layer runs on a packed batch: data, sizes, states, weights; else data, states, weights."""
    return isinstance(args[3], (list, tuple))


def alone(call: Call, tensor: Tensor) -> None:
    """Of what a recurrent layer reads, channels may lie on the last axis alone."""
    for plane in call.label(tensor).planes:
        if any(axis != tensor.dim() - 1 for axis in varying(plane)):
            call.book.pin(plane, STEPS)


def pack(call: Call, out: Sequence[Tensor]) -> list[list[Tensor]]:
    """`_pack_padded_sequence`, `_pad_packed_sequence`: the places of steps change, features stay on the last axis."""
    x, to = call.args[0], out[0]
    alone(call, x)
    ids = call.read(x, -1)
    return [[along(ids, to.dim() - 1, to.shape)] if bool((ids >= 0).any()) else [], []]


def gates(call: Call, rows: Iterable[Tensor | None], unit: Tensor | None = None) -> Tensor:
    """The rows of all gates, in matrices and biases, are those of the same units; returns their ids."""
    for tensor in rows:
        if tensor is not None:
            for line in call.axis(tensor, 0, "out").chunk(GATES[call.func.__name__.removesuffix("_cell")]):
                unit = line if unit is None else unit
                call.book.unite(line, unit)
    if unit is None:
        raise TypeError("its weights are not its own")
    return unit


def products(call: Call, weight: Any, read: Tensor, unit: Tensor, steps: int) -> None:
    """What a matrix of all gates reads along its second axis, and its arithmetic."""
    call.book.unite(read, call.axis(weight, 1, "in"))
    call.book.work(call.path, call.index, steps * (weight.shape[0] // len(unit)), [read, unit])


def cell(call: Call, out: Any) -> Any:
    """`gru_cell`, `lstm_cell`, `rnn_tanh_cell`, `rnn_relu_cell`: as the layer, one step at a time."""
    x, states, given, fed, *biases = call.args
    unit = gates(call, (given, fed, *biases))
    steps = x.numel() // x.shape[-1]
    read = call.read(x, -1)
    products(call, given, read, unit, steps)
    products(call, fed, unit, unit, steps)
    for state in tree_iter(states):
        call.book.unite(call.read(state, -1), unit)
        alone(call, state)
    alone(call, x)
    if isinstance(call.module, nn.RNNCellBase):
        call.book.count("attribute", call.path, 0, "input_size", read)
        call.book.count("attribute", call.path, 0, "hidden_size", unit)
    planes = [[along(unit, t.dim() - 1, t.shape)] for t in tree_iter(out)]
    return planes[0] if isinstance(out, Tensor) else planes


RECURRENT: dict[str, Any] = {
    **dict.fromkeys(GATES, recurrent),
    **dict.fromkeys((f"{name}_cell" for name in GATES), cell),
    **dict.fromkeys(("_pack_padded_sequence", "_pad_packed_sequence"), pack),
}
