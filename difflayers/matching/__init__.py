"""Differentiable bipartite matching: the DMM layer's unrolled solver, and the exact Euclidean projection."""
