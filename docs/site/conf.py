"""Settings of Sphinx. `build.py` makes the pages and calls it; see docs/architecture.md for why it is Sphinx."""

from __future__ import annotations

import prunus

project = "Prunus"
version = release = prunus.__version__
extensions = ["myst_parser"]
myst_heading_anchors = 3  # `page.md#heading` works as it does where the repository is browsed
highlight_language = "text"
smartquotes = False  # quotes here are code
html_theme = "furo"
html_title = f"Prunus {prunus.__version__}"
exclude_patterns = ["extra"]
html_copy_source = False
html_show_copyright = False
# The theme's one file of icons is inlined and its fonts are the reader's own: nothing is fetched, now or when read.
