"""Sphinx configuration; `make docs` builds with warnings as errors."""

import difflayers

project = "difflayers"
author = "The difflayers authors"
release = difflayers.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist", "dollarmath"]
# `name` in a docstring is a link to what is called so.
default_role = "py:obj"
html_theme = "furo"
html_title = "difflayers"
exclude_patterns = ["_build"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["cvxpy"]
# An argument called `n` in a docstring may also be the name of several attributes; it is no link then.
suppress_warnings = ["ref.python"]
