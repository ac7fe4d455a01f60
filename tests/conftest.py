"""Seeds, threads and hypothesis settings shared by all tests."""

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("difflayers", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("difflayers")


def pytest_configure(config: pytest.Config) -> None:
    """What is drawn when the tests are collected is the same in every worker of pytest-xdist; they share the cores."""
    torch.manual_seed(0)
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Each test starts from the same seed, and leaves torch's thread count as it found it."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
