"""Cut random networks out of the usual blocks, each proven; the suite does 60 of them, this as many as asked.

python benchmarks/networks.py --count 500 [--seed 0]
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from options import parser_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every cut was exact and on budget."""
    from networks import BLOCKS
    from test_random_networks import check

    from prunus.errors import PrunusError

    made = parser_of(__doc__)
    made.add_argument("--count", type=int, default=500)
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args(argv)
    draw, start, worst, failed = random.Random(options.seed), time.perf_counter(), 0.0, 0
    for n in range(options.count):
        size = draw.randint(1, 5)
        spec = [(draw.choice(sorted(BLOCKS)), draw.randint(0, 11), draw.randint(0, 11)) for _ in range(size)]
        try:
            small = check(spec, n)
            assert small.proof is not None
            worst = max(worst, small.proof.worst)
        except (AssertionError, PrunusError, RuntimeError) as error:
            failed += 1
            print(f"{n}: {spec}: {type(error).__name__}: {error}", flush=True)
    seconds = time.perf_counter() - start
    print(f"{options.count - failed} of {options.count} networks exact and on budget, seed {options.seed}")
    print(f"largest relative difference {worst:.1e}; {seconds / options.count:.1f} s a network")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
