"""Re-identification: what learning through a matching layer is good for.

`train` is the example: read it first. Then `data`, `model`, and `study`, which tunes, repeats and compares.
"""
