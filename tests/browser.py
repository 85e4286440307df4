"""What headless Chromium writes into the console of a page. Also a command: `python tests/browser.py PAGE.html`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--dump-dom",
)
CONSOLE = re.compile(r"CONSOLE[:(]\d+\)?\] (.*)")


def chromium() -> str | None:
    """The path of a Chromium, or None."""
    asked = os.environ.get("PRUNUS_CHROMIUM")
    return asked or next((path for name in NAMES if (path := shutil.which(name))), None)


def open_page(browser: str, page: Path, *flags: str) -> tuple[str, list[str]]:
    """Open `page`; returns the document as the browser understood it, and every line of its console."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
    if done.returncode:
        raise RuntimeError(f"{browser} failed with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout, CONSOLE.findall(done.stderr)


def main(page: str) -> int:
    """0 where the console stays empty, 1 where it does not, 2 where there is no browser."""
    browser = chromium()
    if browser is None:
        print(f"no browser: none of {', '.join(NAMES)} is installed")
        return 2
    document, console = open_page(browser, Path(page))
    print(f"{page}: {len(document)} characters, {len(console)} lines in the console")
    print("\n".join(console))
    return 1 if console or "</h1>" not in document else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
