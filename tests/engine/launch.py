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
    return subprocess.run(
        [sys.executable, str(JOB), json.dumps(options)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=check,
        timeout=120,
    )


def together(options: dict[str, Any], processes: int = 2, check: bool = True) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*launch, "--master-port", str(free_port()), str(JOB), json.dumps(options)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=check,
        timeout=180,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
