"""Sphinx configuration; `make docs` builds with warnings as errors."""

import os
from pathlib import Path

import jupytext
import nbformat
from sphinx.application import Sphinx

import difflayers

project = "difflayers"
author = "The difflayers authors"
copyright = "2026, the difflayers authors. MIT licence"
release = difflayers.__version__
extensions = [
    "myst_nb",  # runs the tutorials' cells while the pages are built
    "sphinx.ext.autodoc",
    "sphinx-mathjax-offline",  # formulas without a network
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
# The problems of the tutorials are small: a second thread costs more than it helps.
os.environ.update({"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"})
# `name` in a docstring is a link to what is called so.
default_role = "py:obj"
html_theme = "furo"
html_title = "difflayers"
html_static_path = ["_static"]
html_css_files = ["style.css"]
highlight_language = "none"  # a block without a language is a command, or what one prints
exclude_patterns = ["_build"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["cvxpy"]
# An argument called `n` in a docstring may also be the name of several attributes; it is no link then.
suppress_warnings = ["ref.python"]


def _notebooks(app: Sphinx, error: Exception | None) -> None:
    """Write each tutorial beside its page as a notebook, which asks for the package first."""
    for page in (Path(app.srcdir) / "tutorials").glob("*.md") if error is None else ():
        notebook = jupytext.read(page)
        first = "# Install difflayers first: the Start page of the documentation says how.\nimport difflayers"
        notebook.cells.insert(0, nbformat.v4.new_code_cell(first))
        jupytext.write(notebook, Path(app.outdir) / "tutorials" / f"{page.stem}.ipynb")


def setup(app: Sphinx) -> None:
    app.connect("build-finished", _notebooks)
