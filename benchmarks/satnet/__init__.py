"""SATNet: the layer against a per-coordinate loop, and its parts."""
