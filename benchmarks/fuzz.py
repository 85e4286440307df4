"""Mutate files of prunus.save, and see that each is refused by name or loads exactly what it holds.

    python benchmarks/fuzz.py [--count 2000] [--seed 0] [--only KIND]

Three small networks (cut, with a dropped block and tied weights; cut to narrower heads of attention; with zeros) are
saved; each mutation changes one file: flipped bits, truncations, insertions, deletions, lying lengths and entries of
the header, other plans. `forged` kinds come with a digest that fits, as from someone who writes a file on purpose. A
load passes where it raises a PrunusError in one line within a time limit, or where the model's tensors are, bit by bit,
those that safetensors itself reads from the file; without a forged digest, they must be those that were saved. Files
that are pickles, bare or in a zip, create a file if they are ever executed. Exit code 1 where anything fails.
"""

from __future__ import annotations

import io
import json
import platform
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from options import parser_of
from torch import Tensor, nn

LIMIT = 20
"""Seconds that a load may take."""
JUNK: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 3, 7, 1 << 31, 1 << 62, 10**30, 0.5, float("nan"), float("inf"), "", "x", "training"),
    *([], [0], [[]], [1 << 40], {}, {"start": 0, "channel": 0, "entry": 0, "entries": 1 << 24}, "0.weight", "forward"),
)


class Block(nn.Module):
    """A residual block; the second convolution of the first one is tied to that of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.norm(self.one(x)).relu())  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A stem, three blocks of which two share a weight, a table of which channels to take, a head."""

    def __init__(self) -> None:
        super().__init__()
        from prunus.models.shortcut import Shortcut, centred

        self.stem, self.blocks = nn.Conv2d(3, 8, 3), nn.ModuleList(Block() for _ in range(3))
        self.blocks[1].two.weight = self.blocks[2].two.weight  # type: ignore[union-attr]
        self.wider, self.head = Shortcut(centred(8, 12)), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.wider(x).mean((2, 3)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """One attention with a softmax scale that follows the width of its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.leave = nn.Linear(48, 16), nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.flatten(2).reshape(x.shape[0], -1, 48))
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 4, -1).permute(2, 0, 3, 1, 4).unbind(0)
        made = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.leave(made.mean(1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Good:
    """A saved network: its constructor, its file, and what the file holds."""

    name: str
    fresh: Callable[[], nn.Module]
    content: bytes
    state: dict[str, Tensor]


def goods(folder: Path) -> list[Good]:
    """The three networks, saved."""
    import prunus

    torch.manual_seed(0)
    example = torch.randn(2, 3, 8, 8)
    cut = prunus.prune(Residual(), example, "macs=60%", "random", drop=["blocks.0"])
    narrow = prunus.prune(Attention(), example, "macs=60%", "random", attention="width")
    thin = prunus.prune(Residual(), example, "weights=40%", "weights")
    found = []
    for name, fresh, small in (("cut", Residual, cut), ("attention", Attention, narrow), ("zeros", Residual, thin)):
        path = folder / f"{name}.safetensors"
        prunus.save(small, path)
        found.append(Good(name, fresh, path.read_bytes(), dict(small.model.state_dict())))
    return found


# mutations ------------------------------------------------------------------------------------------------------------
def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the bytes behind it."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def told(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(header["__metadata__"]["prunus"])
    return found


def forged(header: dict[str, Any], body: bytes, entry: dict[str, Any]) -> bytes:
    """A file with this entry and a digest that fits, if safetensors reads the tensors at all."""
    from safetensors.torch import load

    from prunus.engine.checkpoint import digest
    from prunus.files.file import head

    try:
        tensors = load(joined(header, body))
        entry = {**entry, "sha256": digest(head(entry["content"]), tensors)}
    except Exception:  # the digest does not matter then
        pass
    return joined({**header, "__metadata__": {"prunus": json.dumps(entry)}}, body)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each part of plain data."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*here, key)
        yield from paths(inner, (*here, key))


def edited(value: Any, draw: random.Random) -> Any:
    """The same data with one part replaced, moved by one, or gone."""
    value = json.loads(json.dumps(value))
    way = draw.choice(list(paths(value)))
    owner = value
    for key in way[:-1]:
        owner = owner[key]
    old = owner[way[-1]]
    if draw.random() < 0.2:
        del owner[way[-1]]
    elif isinstance(old, int) and draw.random() < 0.5:
        owner[way[-1]] = old + draw.choice((-1, 1))
    else:
        owner[way[-1]] = draw.choice(JUNK)
    return value


def flipped(content: bytes, low: int, high: int, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 4))):
        changed[draw.randrange(low, high)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def body_at(content: bytes) -> int:
    return 8 + int(struct.unpack("<Q", content[:8])[0])


def flip_header(content: bytes, draw: random.Random) -> bytes:
    return flipped(content, 0, body_at(content), draw)


def flip_body(content: bytes, draw: random.Random) -> bytes:
    return flipped(content, body_at(content), len(content), draw)


def truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.choice((draw.randrange(len(content)), draw.randrange(16), len(content) - 1))]


def insert(content: bytes, draw: random.Random) -> bytes:
    at = draw.choice((draw.randrange(len(content)), len(content), body_at(content)))
    return content[:at] + draw.randbytes(draw.randint(1, 16)) + content[at:]


def delete(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + content[at + draw.randint(1, 64) :]


def length(content: bytes, draw: random.Random) -> bytes:
    size = draw.choice((0, 1, len(content), body_at(content) - 9, 1 << 31, (1 << 63) - 1, (1 << 64) - 1))
    return struct.pack("<Q", size) + content[8:]


def lying(content: bytes, draw: random.Random) -> tuple[dict[str, Any], bytes]:
    """A header that lies about one tensor: its dtype, its shape, its place, or its name."""
    header, body = split(content)
    name = draw.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    other = header[draw.choice([key for key in header if key != "__metadata__"])]
    what = draw.randrange(6)
    if what == 0:
        entry["dtype"] = draw.choice(
            ("F64", "F32", "F16", "BF16", "I32", "U32", "I64", "U8", "BOOL", "F8_E4M3", "F4", 3)
        )
    elif what == 1 and entry["shape"]:
        at = draw.randrange(len(entry["shape"]))
        entry["shape"][at] = draw.choice((0, -1, entry["shape"][at] + 1, 1 << 40, (1 << 64) - 1, 1.5))
    elif what == 2:
        entry["shape"] = draw.choice((entry["shape"][::-1], [], [1, *entry["shape"]], [1 << 32, 1 << 32], None))
    elif what == 3:
        entry["data_offsets"] = draw.choice(
            ([0, len(body)], [0, 0], [8, 4], [-8, 8], [0, 1 << 62], other["data_offsets"], [0])
        )
    elif what == 4:
        entry["data_offsets"], other["data_offsets"] = other["data_offsets"], entry["data_offsets"]
    else:
        header[draw.choice(("x", "", f"{name}.y", "stem.weight", "head.bias"))] = header.pop(name)
    return header, body


def entry(content: bytes, draw: random.Random) -> bytes:
    return joined(*lying(content, draw))


def forged_entry(content: bytes, draw: random.Random) -> bytes:
    header, body = lying(content, draw)
    return forged(header, body, told(header))


def plan(content: bytes, draw: random.Random) -> bytes:
    header, body = split(content)
    header["__metadata__"]["prunus"] = json.dumps(edited(told(header), draw))
    return joined(header, body)


def forged_plan(content: bytes, draw: random.Random) -> bytes:
    header, body = split(content)
    made = told(header)
    return forged(header, body, {**made, "content": edited(made["content"], draw)})


def forged_body(content: bytes, draw: random.Random) -> bytes:
    header, body = split(flip_body(content, draw))
    return forged(header, body, told(header))


def foreign(content: bytes, draw: random.Random) -> bytes:
    """A pickle that would create the file `executed`, bare, in a zip, or in place of the tensors."""
    pickled = b"cbuiltins\nopen\n(Vexecuted\nVw\ntR."
    kind = draw.randrange(5)
    if kind == 0:
        return b"\x80\x02" + pickled
    if kind == 1:
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + pickled)
        return held.getvalue()
    if kind == 2:
        return content[: body_at(content)] + (b"\x80\x02" + pickled) * 20
    return draw.randbytes(draw.randint(0, 400)) if kind == 3 else b""


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    made.__name__.replace("_", " "): made
    for made in (
        *(flip_header, flip_body, truncate, insert, delete, length, entry, plan, foreign),
        *(forged_entry, forged_plan, forged_body),
    )
}


# verdicts -------------------------------------------------------------------------------------------------------------
@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after so many seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two tables hold the same tensors, bit by bit."""
    from prunus.files.filled import same_bytes

    return one.keys() == other.keys() and all(same_bytes(value, other[name]) for name, value in one.items())


def verdict(good: Good, kind: str, content: bytes, path: Path) -> str:
    """refused, as saved, or as forged; anything else is a fault."""
    from safetensors.torch import load

    import prunus
    from prunus.errors import PrunusError

    path.write_bytes(content)
    fresh = good.fresh()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    try:
        with within(LIMIT):
            loaded = prunus.load(path, fresh)
    except PrunusError as error:
        return "refused" if str(error) and "\n" not in str(error) else f"no line: {error}"
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return f"{type(error).__name__}: {error}"
    if not same(dict(fresh.state_dict()), before):
        return "the fresh model was changed"
    state = dict(loaded.model.state_dict())
    if same(state, good.state):
        return "as saved"
    if kind.startswith("forged") and same(state, load(content)):
        return "as forged"
    return "a wrong model"


def fuzz(folder: Path, count: int, seed: int, only: str | None = None) -> tuple[dict[str, Counter[str]], float]:
    """Verdicts by kind of mutation, and the seconds of the longest load."""
    draw, found, longest = random.Random(seed), dict[str, Counter[str]](), 0.0
    good = goods(folder)
    kinds = [kind for kind in MUTATIONS if only in (None, kind)]
    for n in range(count):
        kind, chosen = kinds[n % len(kinds)], good[n // len(kinds) % len(good)]
        start = time.perf_counter()
        said = verdict(chosen, kind, MUTATIONS[kind](chosen.content, draw), folder / "mutated.safetensors")
        longest = max(longest, time.perf_counter() - start)
        found.setdefault(kind, Counter())[said] += 1
    return found, longest


def main(argv: Sequence[str] | None = None) -> int:
    """Mutate and print a table; 0 where every load passed."""
    made = parser_of(__doc__)
    made.add_argument("--count", type=int, default=2000, help="how many mutations (default 2000)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--only", choices=list(MUTATIONS), help="one kind of mutation")
    options = made.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found, longest = fuzz(Path(folder), options.count, options.seed, options.only)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    passed = ("refused", "as saved", "as forged")
    print("| mutation | files | refused | loads as saved | loads as forged | faults |")
    print("|---|---|---|---|---|---|")
    for kind, counts in found.items():
        faults = sum(counts.values()) - sum(counts[said] for said in passed)
        print(f"| {kind} | {sum(counts.values())} | {' | '.join(str(counts[said]) for said in passed)} | {faults} |")
    executed = Path("executed").exists()
    wrong = Counter(said for counts in found.values() for said in counts.elements() if said not in passed)
    print(
        f"\n{options.count} files (seed {options.seed}) in {seconds:.0f} s, the longest {longest:.2f} s; peak memory "
        f"{before / 1024:.0f} MB before and {after / 1024:.0f} MB after; executed: {'yes' if executed else 'nothing'}; "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
    for said, n in wrong.items():
        print(f"FAULT, {n} times: {said}")
    return 1 if wrong or executed else 0


if __name__ == "__main__":
    sys.exit(main())
