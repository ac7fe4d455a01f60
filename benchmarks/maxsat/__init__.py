"""What is measured of the MAXSAT solver."""
