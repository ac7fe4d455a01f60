"""Search with a trained layer."""
