"""The measures of video object segmentation, as DAVIS defines them: J, F, and their statistics over a sequence.

`jaccard` and `boundary_f` compare masks, NumPy arrays or tensors, any number at once; `sequence_statistics` sums up the
values of the frames of one object.
"""

from difflayers.metrics.masks import boundary_f, jaccard
from difflayers.metrics.sequences import Statistics, sequence_statistics

__all__ = ["Statistics", "boundary_f", "jaccard", "sequence_statistics"]
