"""Fixtures that several test modules use."""

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """Tiny products gain nothing from more, and lose much where other programs run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
