"""Runs `job.py` as programs: alone, or as processes that train together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

JOB = Path(__file__).with_name("job.py")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONWARNINGS")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def alone(options: dict[str, Any], check: bool = True) -> subprocess.CompletedProcess[str]:
    return ended([sys.executable, str(JOB), json.dumps(options)], check, 120)


def together(options: dict[str, Any], processes: int = 2, check: bool = True) -> subprocess.CompletedProcess[str]:
    # `--standalone` lets the launcher take a free port, where a port that was looked up may be taken meanwhile.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return ended([*launch, str(JOB), json.dumps(options)], check, 180)


def together_at(script: Path, times: int) -> None:
    """Two processes of a script, so many times, all of which must end well."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for _ in range(times):
        ended([*launch, str(script)], True, 120)


def ended(words: list[str], check: bool, timeout: float) -> subprocess.CompletedProcess[str]:
    """The program when it is over; where it should have worked and did not, with what it said."""
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-6000:]}"
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
