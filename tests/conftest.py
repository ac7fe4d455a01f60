"""Seeds, threads and hypothesis settings shared by all tests."""

from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("difflayers", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("difflayers")


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Each test starts from the same seed, and leaves torch's thread count as it found it."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
