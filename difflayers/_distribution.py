"""The distribution's name, what its extras install, and the other project of the same import name."""

import importlib.metadata
import warnings

NAME = "torch-difflayers"
"""On a package index. `difflayers` there is another project with the same import name."""
REQUIREMENTS = {
    "cuda.core": "cuda-core[cu13]",
    "cvxpy": "cvxpy",
    "python-sat": "python-sat>=1.8.dev1",
    "tqdm": "tqdm",
}
"""The optional packages and what pip is to be given for each."""


def needs(what: str, package: str) -> str:
    """The message of the ImportError where an optional package is missing."""
    return f"{what} needs {package}: pip install '{REQUIREMENTS[package]}'"


def warn_of_other_project() -> None:
    """Warn if the other project is installed here too: pip puts the files of both into one folder."""
    try:
        other = importlib.metadata.version("difflayers")
    except importlib.metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"another project, 'difflayers' {other} of the package index, is installed beside this one ('{NAME}'). Both are "
        "imported as difflayers, and pip puts their files into one folder. Uninstall both, then install this one again: "
        f"pip uninstall difflayers {NAME}",
        UserWarning,
        stacklevel=3,
    )
