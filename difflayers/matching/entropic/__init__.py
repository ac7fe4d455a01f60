"""Entropic matching: Sinkhorn's problem with columns of at most 1, to a tolerance, and its implicit derivative."""
