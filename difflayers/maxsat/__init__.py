"""MAXSAT solved by the relaxation behind SATNet: `solve` an instance, with a lower bound; `read` a DIMACS file.

`python -m difflayers.maxsat FILE` does both. Reading files needs the extra ``difflayers[maxsat]`` (python-sat).
"""

from difflayers.maxsat.instance import Instance, read
from difflayers.maxsat.solver import Solution, solve

__all__ = ["Instance", "Solution", "read", "solve"]
