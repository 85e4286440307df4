"""A process of a sweep: `python -m prunus.lab.worker`. It reads errands, a line each, and answers each with a line.

It ends with its parent: where its input ends, it is gone at once, in the middle of a run too, which then goes on from
its last checkpoint. What a run prints goes to stderr.
"""

from __future__ import annotations

import os
import queue
import sys
import threading

__all__ = ["main"]


def main() -> None:
    """Until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a model or a data set of the user's own may print
    lines: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    from prunus.lab.errand import Errand, carry_out

    while True:
        ended = carry_out(Errand.of(lines.get()))
        answers.write(ended.to_json() + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
