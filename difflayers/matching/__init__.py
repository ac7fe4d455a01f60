"""Differentiable bipartite matching: what all methods share, and a folder for each of them."""
