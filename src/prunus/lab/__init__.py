"""Experiments: what a run leaves behind, the demo, and the pages that show them."""
