"""The layers as functions. `difflayers.nn` holds the same as modules."""

from difflayers.functional._assignment import greedy_matching, hungarian
from difflayers.functional._clauses import Relation, clauses_to_S, hyperplane_rounding, relations
from difflayers.functional._matching import (
    MatchingInfo,
    QuadraticMatchingInfo,
    dmm_matching,
    project_assignment,
    quadratic_matching,
)
from difflayers.functional._satnet import SATNetInfo, default_k, satnet, satnet_vectors
from difflayers.matching.cost import mask_iou, mask_matching_cost

__all__ = [
    "MatchingInfo",
    "QuadraticMatchingInfo",
    "Relation",
    "SATNetInfo",
    "clauses_to_S",
    "default_k",
    "dmm_matching",
    "greedy_matching",
    "hungarian",
    "hyperplane_rounding",
    "mask_iou",
    "mask_matching_cost",
    "project_assignment",
    "quadratic_matching",
    "relations",
    "satnet",
    "satnet_vectors",
]
