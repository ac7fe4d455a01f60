"""J and F of masks beside the official algorithm."""
