"""Kill trainings at random moments, resume them, and compare the weights with those of a training that was not killed.

    python benchmarks/kill.py [--kills 25] [--seed 0]

Each mode is trained once in peace. Then the same training is started again and again, each time ended from outside by
SIGKILL after a random time (in a step, in a validation, while a checkpoint is written, while Python starts), until
its share of the kills is used up and it runs to its end. The final weights must be equal to the bit. Exit code 1 where
they are not.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from options import HERE, parser_of
from pages import write
from safetensors.torch import load_file

JOB = HERE.parent / "tests" / "engine" / "job.py"
MODES: dict[str, dict[str, Any]] = {
    "fp32 eager": {},
    "bf16 eager, channels_last": {"runtime": {"precision": "bf16", "channels_last": True}},
    "bf16 compiled": {"runtime": {"precision": "bf16", "channels_last": True, "compile": True}},
    "a cut network, fp32": {"cut": True},
    "two processes, fp32": {"processes": 2},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run all modes; 0 where every one came to the same weights."""
    made = parser_of(__doc__)
    made.add_argument("--kills", type=int, default=25, help="over all modes (default 25)")
    made.add_argument("--seed", type=int, default=0, help="of the moments")
    made.add_argument("--write", action="store_true", help="write the table to docs/benchmarks.md too")
    options = made.parse_args(argv)
    draw, failed = random.Random(options.seed), 0
    lines = [
        f"Command: `python benchmarks/kill.py --kills {options.kills} --seed {options.seed}`",
        "",
        f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, CPU",
        "",
        "| mode | kills | with a checkpoint to go on from | final weights |",
        "|---|---|---|---|",
    ]
    share = -(-options.kills // len(MODES))
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, mode) in enumerate(MODES.items()):
            job = {"every": 2, "pause": 0.05, "fit": {"epochs": 6, "ema": 0.9}} | mode
            processes = job.pop("processes", 1)
            useful, same = torture(job, processes, Path(folder) / str(number), share, draw)
            failed += not same
            lines.append(f"| {name} | {share} | {useful} | {'identical' if same else 'different'} |")
            print(lines[-1], file=sys.stderr, flush=True)
    print("\n".join(lines))
    if options.write:
        write(HERE.parent / "docs" / "benchmarks.md", "kill", "\n".join(lines))
    return 1 if failed else 0


def torture(job: dict[str, Any], processes: int, folder: Path, kills: int, draw: random.Random) -> tuple[int, bool]:
    """How many of the kills left a checkpoint to resume from, and whether the weights are the same."""
    folder.mkdir()
    straight, resumed, calm, kept = (folder / n for n in ("straight.st", "resumed.st", "calm", "checkpoints"))
    start = time.perf_counter()
    # with checkpoints too: at each, running statistics become their mean over the processes, which rounds
    finish(launch({**job, "out": str(straight), "checkpoints": str(calm)}, processes))
    whole = time.perf_counter() - start
    done = useful = 0
    while done < kills:
        running = launch({**job, "out": str(resumed), "checkpoints": str(kept)}, processes, quiet=True)
        time.sleep(draw.uniform(0.3, 0.8) * whole)
        ended = running.poll() is not None
        if not ended:
            os.killpg(running.pid, signal.SIGKILL)
            done += 1
            useful += any(kept.glob("step-*"))
        running.wait()
        if ended:  # it came to its end before the moment: the next one starts from nothing
            shutil.rmtree(kept, ignore_errors=True)
    finish(launch({**job, "out": str(resumed), "checkpoints": str(kept)}, processes))
    a, b = load_file(straight), load_file(resumed)
    return useful, all(torch.equal(a[name], b[name]) for name in a)


def launch(options: dict[str, Any], processes: int, *, quiet: bool = False) -> subprocess.Popen[bytes]:
    """Start the job in a process group of its own, which can be killed whole."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), str(JOB), json.dumps(options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    errors = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)


def finish(running: subprocess.Popen[bytes]) -> None:
    if running.wait():
        raise SystemExit(f"the job ended with {running.returncode}")


if __name__ == "__main__":
    sys.exit(main())
