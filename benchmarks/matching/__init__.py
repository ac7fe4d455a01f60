"""What is measured of the matching layers."""
