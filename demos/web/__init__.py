"""A local page to look at: `python -m demos.web`."""
