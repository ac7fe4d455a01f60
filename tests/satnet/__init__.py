"""Tests of the SATNet layer."""
