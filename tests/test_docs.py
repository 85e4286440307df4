"""The Python blocks of the documentation run, in order, as they stand there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("page", ["docs/training.md", "docs/rules.md"])
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 1
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), "utf-8")
    names = runpy.run_path(str(script), {"folder": tmp_path / "checkpoints"})
    assert names["small"].proof.holds
