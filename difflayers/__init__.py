"""Differentiable optimization layers for PyTorch: SATNet, and matching.

`SATNet` (a MAXSAT instance with learnable clauses), `DMMMatching`, `QuadraticMatching`, `EntropicMatching` and
`ExactMatching` (bipartite matching) are the layers as modules, `MaskMatchingCost` a cost for matching, `functional` holds the
same as functions. `inference` and `Domains` find out what a trained SATNet knows. `backends()` says which kernels this
machine runs, and `difflayers.verify` (the extra ``verify``) solves the same problems with cvxpy.
"""

from difflayers import functional, inference, maxsat, metrics
from difflayers._backends import backends
from difflayers._distribution import warn_of_other_project
from difflayers.inference import Domains
from difflayers.nn import (
    DMMMatching,
    EntropicMatching,
    ExactMatching,
    MaskMatchingCost,
    QuadraticMatching,
    SATNet,
)

__all__ = [
    "DMMMatching",
    "Domains",
    "EntropicMatching",
    "ExactMatching",
    "MaskMatchingCost",
    "QuadraticMatching",
    "SATNet",
    "backends",
    "functional",
    "inference",
    "maxsat",
    "metrics",
]
__version__ = "0.3.0"

warn_of_other_project()
