"""Parity of a bit sequence, learnt from one label for the whole sequence."""
