"""Layer timings on the disk: one JSON file for each machine, thread count, runtime and set of versions.

The folder is PRUNUS_CACHE, else XDG_CACHE_HOME/prunus, else ~/.cache/prunus. A file holds the whole of what it was made
under, and is read only where that is what holds now. A file that is torn, of another make, or in which one number is no
time is left alone, named in a note, and replaced when something new was timed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
LARGEST = 64 << 20
"""Bytes of a file that is read at all."""

Seconds = dict[str, dict[str, float]]
"""By setting, then by "in,out"."""


def folder() -> Path:
    """Where the files are."""
    own = os.environ.get("PRUNUS_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "prunus"


def file_of(conditions: Mapping[str, Any], place: Path | None = None) -> Path:
    """The file of these conditions."""
    text = json.dumps(conditions, sort_keys=True)
    return (place or folder()) / f"latency-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def read(path: Path, conditions: Mapping[str, Any]) -> tuple[Seconds, str | None]:
    """What the file holds, and else nothing and a note that says why."""
    try:
        if not path.exists():
            return {}, None
        if path.stat().st_size > LARGEST:
            return {}, f"the cache {path} was ignored: it is too large"
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, f"the cache {path} was ignored: it cannot be read as JSON"
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("conditions") != dict(conditions):
        return {}, f"the cache {path} was ignored: it was made under other conditions"
    seconds = found.get("seconds")
    if not isinstance(seconds, dict) or not all(map(timed, seconds.values())):
        return {}, f"the cache {path} was ignored: it holds what is no time"
    return seconds, None


def timed(points: object) -> bool:
    """Whether these are times by widths."""
    return isinstance(points, dict) and all(
        isinstance(value, float) and 0 < value < math.inf for value in points.values()
    )


def write(path: Path, conditions: Mapping[str, Any], seconds: Seconds) -> str | None:
    """Put the times into the file, beside those that another process may have written. A note where that fails."""
    there, _ = read(path, conditions)
    merged = {setting: {**there.get(setting, {}), **points} for setting, points in (there | seconds).items()}
    content = {"format": FORMAT, "conditions": dict(conditions), "seconds": merged}
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
            name = file.name
            json.dump(content, file)
        os.replace(name, path)
    except OSError as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        return f"the cache {path} was not written: {error.strerror or error}"
    return None
