"""The layers as functions. `difflayers.nn` holds the same as modules."""

from difflayers.functional._clauses import Relation, clauses_to_S, hyperplane_rounding, relations
from difflayers.functional._dmm import DMMSolution, dmm_matching, solve_dmm
from difflayers.functional._entropic import EntropicSolution, entropic_matching, solve_entropic
from difflayers.functional._equations import equations_to_S, solutions_to_S
from difflayers.functional._exact import ExactSolution, assign, exact_matching, hungarian, solve_exact
from difflayers.functional._greedy import greedy_matching
from difflayers.functional._matching_loss import matching_loss
from difflayers.functional._quadratic import (
    QuadraticSolution,
    project_assignment,
    quadratic_matching,
    solve_quadratic,
)
from difflayers.functional._satnet import SATNetSolution, default_k, satnet, satnet_vectors, solve_satnet
from difflayers.functional._satnet_loss import satnet_loss
from difflayers.matching.cost import mask_iou, mask_matching_cost

__all__ = [
    "DMMSolution",
    "EntropicSolution",
    "ExactSolution",
    "QuadraticSolution",
    "Relation",
    "SATNetSolution",
    "assign",
    "clauses_to_S",
    "default_k",
    "dmm_matching",
    "entropic_matching",
    "equations_to_S",
    "exact_matching",
    "greedy_matching",
    "hungarian",
    "hyperplane_rounding",
    "mask_iou",
    "mask_matching_cost",
    "matching_loss",
    "project_assignment",
    "quadratic_matching",
    "relations",
    "satnet",
    "satnet_loss",
    "satnet_vectors",
    "solutions_to_S",
    "solve_dmm",
    "solve_entropic",
    "solve_exact",
    "solve_quadratic",
    "solve_satnet",
]
