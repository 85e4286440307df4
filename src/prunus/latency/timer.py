"""A fresh process that times the pair of networks of a folder, as `fresh` laid it out, and leaves their turns there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from .fresh import EXAMPLE, NETWORKS, SETTINGS, TURNS
from .machine import Machine
from .runners import FILES


def main(folder: Path) -> None:
    machine = Machine(**json.loads((folder / SETTINGS).read_text("utf-8")))
    with np.load(folder / EXAMPLE, allow_pickle=False) as kept:
        values = [kept[f"arr_{k}"] for k in range(len(kept.files))]
    dense, pruned = (FILES[machine.runtime](str(folder / name), values, machine.threads) for name in NETWORKS)
    np.save(folder / TURNS, machine.pair(dense, pruned).seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
