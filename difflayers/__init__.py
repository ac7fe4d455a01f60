"""Differentiable optimization layers for PyTorch: SATNet.

`SATNet` is the layer as a module, `functional` holds it as a function, `backends()` says which kernels this machine
runs, and `difflayers.verify` (extra ``difflayers[verify]``) solves the same problems with cvxpy.
"""

from difflayers import functional
from difflayers._backends import backends
from difflayers.nn import SATNet

__all__ = ["SATNet", "backends", "functional"]
__version__ = "0.1.0"
