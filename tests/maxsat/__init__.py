"""Tests of the MAXSAT solver."""
