"""Tests of the matching layers."""
