"""Parity of a bit sequence, learnt by one SATNet layer along the sequence from one bit of supervision."""
