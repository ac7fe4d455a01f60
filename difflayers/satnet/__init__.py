"""SATNet: the relaxed MAXSAT layer. `oracle` is the algorithm to read, `kernels` what runs on CPU, `op` the torch operator."""
