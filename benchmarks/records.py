"""Results files: a record is a line of JSON. How it is written, found again, and what it says of the machine."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunus.errors import InputError

if TYPE_CHECKING:
    import torch

Record = Mapping[str, Any]


def read(path: Path) -> list[Record]:
    """The records of a results file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def append(path: Path, record: Record) -> None:
    """One line more, written at once, so that two processes may share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def alike(record: Record, key: Record) -> bool:
    """Whether a record was made with everything that `key` says."""
    return all(record.get(name) == value for name, value in key.items())


def known(path: Path, key: Record) -> Record | None:
    """The last record of a file that was made with everything that `key` says."""
    return next((record for record in reversed(read(path)) if alike(record, key)), None)


def wanted(path: Path, want: Callable[[Record], bool]) -> list[Record]:
    """The records of a file that are wanted. Raises InputError where there is none."""
    records = [record for record in read(path) if want(record)]
    if not records:
        raise InputError(f"{path} has no records with these settings")
    return records


def as_json(settings: Record) -> dict[str, Any]:
    """Settings as a record gives them back: tuples are lists."""
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def digest(path: Path) -> str:
    """The first digits of a file's SHA-256. Raises InputError where there is no file."""
    if not path.exists():
        raise InputError(f"there is no file {path}")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def versions(*packages: str) -> dict[str, str]:
    """Of Prunus, torch, these packages, and Python."""
    import torch

    import prunus

    more = {name: version(name) for name in packages}
    return {"Prunus": prunus.__version__, "torch": torch.__version__, **more, "Python": platform.python_version()}


def hardware(device: torch.device) -> str:
    """The GPU, or the processor, its cores and the threads that torch uses."""
    import torch

    from prunus.latency.measure import hardware as machine

    return machine(device) + (f", {torch.get_num_threads()} threads used" if device.type != "cuda" else "")


def made_apart(script: str, words: Sequence[str], limit: float | None = None) -> tuple[dict[str, Any] | None, str]:
    """The record that a script prints last, in a process of its own; or None, and why there is none. limit: seconds."""
    try:
        done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None, f"more than {limit} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1]), ""
    return None, (done.stderr.strip().splitlines() or ["no output"])[-1][:300]
