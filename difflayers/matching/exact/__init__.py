"""Exact matching: the linear program itself, by shortest augmenting paths."""
