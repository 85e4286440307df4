"""The command line: `prunus VERB …`, a thin face of the Python calls.

Exit codes: 0 done, 1 failed while working, 2 the input was wrong, 130 interrupted. An error is one line on stderr;
`--debug` shows the traceback instead. Nothing here imports torch before a verb runs.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path

from prunus import __version__
from prunus.cli.verb import Verb, first, read, write
from prunus.errors import InputError, PrunusError, UnknownName

__all__ = ["main", "verbs"]


def verbs() -> tuple[Verb, ...]:
    """Every verb, in the order in which a newcomer would want them."""
    from prunus.cli import (
        bench,
        compare,
        demo,
        describe,
        export,
        prune,
        recipe,
        report,
        run,
        runs,
        sensitivity,
        sweep,
        train,
        training,
    )

    return (
        demo.DEMO,
        run.RUN,
        train.TRAIN,
        prune.PRUNE,
        train.FINETUNE,
        training.EVAL,
        describe.COST,
        bench.BENCH,
        export.EXPORT,
        describe.INSPECT,
        sensitivity.SENSITIVITY,
        recipe.RECIPE,
        sweep.SWEEP,
        runs.RUNS,
        compare.COMPARE,
        report.REPORT,
        describe.MODELS,
        describe.METHODS,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `prunus` with `argv` (default: the process's arguments) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    prog = "prunus"
    speakable()
    try:
        if not words or words[0] in ("-h", "--help"):
            print(overview())
            return 0 if words else 2
        if words[0] in ("-V", "--version"):
            print(f"prunus {__version__}")
            return 0
        table = {verb.name: verb for verb in verbs()}
        if words[0] not in table:
            raise UnknownName.of("verb", words[0], table)
        verb = table[words[0]]
        prog = f"prunus {verb.name}"
        try:
            options = read(verb, words[1:])
        except SystemExit:  # argparse after --help
            return 0
        # What a file of the user's prints is not the answer.
        with warned(prog), redirect_stdout(sys.stderr) if options.json else nullcontext():
            reply = verb.run(options)
        if first():
            write(reply, as_json=options.json)
        return reply.code
    except SystemExit as stop:
        print(f"{prog}: code of yours ended the program with {stop.code!r}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        print(f"{prog}: interrupted{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        return 130
    except Exception as error:
        if "--debug" in words:
            raise
        return complain(prog, error)


def speakable() -> None:
    """What is printed goes somewhere, and signs that the terminal does not have get others in their place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell closed it, as `>&-` does
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    codecs.register_error("prunus", plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="prunus")


PLAIN = {"├": "|", "│": "|", "─": "-", "…": "...", "±": "+-", "×": "x", "→": "->"}
"""For signs of ours; names that hold others are shown with their codes."""


def plainly(error: UnicodeError) -> tuple[str, int]:
    """What stands for the characters that an encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in signs), error.end


def complain(prog: str, error: Exception) -> int:
    """One line on stderr for `error`; returns the exit code."""
    text = " ".join(str(error).split())
    if isinstance(error, PrunusError):
        print(f"{prog}: {text}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    print(f"{prog}: {type(error).__name__}: {text} (run again with --debug for the traceback)", file=sys.stderr)
    return 1


@contextmanager
def warned(prog: str) -> Iterator[None]:
    """Inside, a warning of this package is one line, as an error is."""
    usual, package = warnings.formatwarning, str(Path(__file__).resolve().parent.parent)

    def told(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if filename.startswith(package):
            return f"{prog}: warning: {' '.join(str(message).split())}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = told
    try:
        yield
    finally:
        warnings.formatwarning = usual


def overview() -> str:
    """The text of `prunus --help`."""
    table = verbs()
    width = max(len(verb.name) for verb in table)
    lines = [f"  {verb.name:<{width}}  {verb.summary}" for verb in table]
    return "\n".join(
        [
            "usage: prunus VERB [options]     prunus VERB --help",
            "",
            "Makes neural networks smaller: name a budget, get a smaller network and the proof that the cut is exact.",
            "",
            "verbs:",
            *lines,
            "",
            "Every verb takes --json and --debug.",
            "Exit codes: 0 done, 1 failed while working, 2 the input was wrong, 130 interrupted.",
            "",
            "example:",
            "  prunus demo",
        ]
    )
