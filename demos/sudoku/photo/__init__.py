"""Photographed puzzles: find the grid, read the digits, and decode what was read together with the learnt rules."""
