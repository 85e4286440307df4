"""What headless Chromium writes into the console of a page. Also a command: `python tests/browser.py PAGE.html`, and
with a second name, SCREENSHOT.png, it keeps a picture of the page."""

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


def screenshot(browser: str, page: Path, picture: Path) -> None:
    """Keep the upper part of the page as a picture."""
    flags = [flag for flag in FLAGS if flag not in ("--dump-dom", "--enable-logging=stderr")]
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *(browser, *flags, f"--user-data-dir={profile}", "--window-size=1200,1600"),
                *(f"--screenshot={picture.resolve()}", page.resolve().as_uri()),
            ],
            capture_output=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=True,
        )


def main(page: str, picture: str | None = None) -> int:
    """0 where the console stays empty, 1 where it does not, 2 where there is no browser. picture: where to keep one."""
    browser = chromium()
    if browser is None:
        print(f"no browser: none of {', '.join(NAMES)} is installed")
        return 2
    document, console = open_page(browser, Path(page))
    print(f"{page}: {len(document)} characters, {len(console)} lines in the console")
    print("\n".join(console))
    if picture is not None:
        screenshot(browser, Path(page), Path(picture))
    return 1 if console or "</h1>" not in document else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
