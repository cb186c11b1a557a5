"""What several unit tests need."""

import pytest


@pytest.fixture
def one_thread():
    """On a busy machine the threads of one process wait for each other for seconds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
