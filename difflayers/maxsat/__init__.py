"""MAXSAT solved by the relaxation behind SATNet: `solve` an instance, with a lower bound; `read` a DIMACS file.

`python -m difflayers.maxsat FILE` does both. SAT and exact solving need python-sat.
"""

from difflayers.maxsat.dimacs import read
from difflayers.maxsat.instance import Instance
from difflayers.maxsat.solution import Solution
from difflayers.maxsat.solver import solve

__all__ = ["Instance", "Solution", "read", "solve"]
