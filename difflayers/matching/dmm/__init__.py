"""DMM matching: the unrolled solver of DMM-Net, and its derivative."""
