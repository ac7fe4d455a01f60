"""Quadratic matching: the exact Euclidean projection onto the assignment polytope, and its derivative."""
