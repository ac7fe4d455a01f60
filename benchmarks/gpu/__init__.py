"""What is measured on a GPU: make bench-gpu."""
