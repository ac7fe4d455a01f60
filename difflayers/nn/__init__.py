"""The layers as modules. `difflayers.functional` holds the same as functions."""

from difflayers.nn._cost import MaskMatchingCost
from difflayers.nn._dmm import DMMMatching
from difflayers.nn._entropic import EntropicMatching
from difflayers.nn._exact import ExactMatching
from difflayers.nn._quadratic import QuadraticMatching
from difflayers.nn._satnet import SATNet

__all__ = ["DMMMatching", "EntropicMatching", "ExactMatching", "MaskMatchingCost", "QuadraticMatching", "SATNet"]
