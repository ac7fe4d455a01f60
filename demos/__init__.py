"""Runnable demonstrations of the layers: each starts with ``python -m demos.NAME``."""
