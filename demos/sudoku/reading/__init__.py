"""Readers of the digits on boards of images, taught with the given cells' labels or without any."""
