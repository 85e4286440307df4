"""What a run folder says of its training, for verbs that go on from it: the data, and the epochs."""

from __future__ import annotations

import json
from pathlib import Path

from prunus.lab.figures import sequence, table
from prunus.userfile import is_file_name

__all__ = ["data_of", "epochs_of"]


def data_of(run: str | None) -> str | None:
    """The data that a run was trained on, by name; None where it is not told or not here.

    A folder may be anyone's: code that it names is not run, and nothing but a bare name is looked for on a hub.
    """
    results = _results(run)
    name = results.get("data") or table(table(results.get("settings")).get("data")).get("path")
    if not isinstance(name, str) or not name or is_file_name(name):
        return None
    return name if Path(name).name == name or Path(name).expanduser().exists() else None


def epochs_of(run: str | None) -> int:
    """For how many epochs a run was trained; 0 where it is not told."""
    results = _results(run)
    epochs = results.get("epochs")
    return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) else len(sequence(epochs))


def _results(run: str | None) -> dict[str, object]:
    """The results in run.json; none for a file of weights, or what cannot be read."""
    if run is None:
        return {}
    try:
        content = json.loads((Path(run) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return dict(table(table(content).get("results")))
