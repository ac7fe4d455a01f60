"""Benchmarks: ``python -m benchmarks`` runs every case, ``python -m benchmarks NAME ...`` some of them.

A case is a function registered in `benchmarks.registry`; each row that it yields is printed and appended, with the
machine and the versions, to ``benchmarks/results/NAME.csv``.
"""
