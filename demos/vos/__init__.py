"""Video object segmentation by matching mask proposals: ``python -m demos.vos``."""
