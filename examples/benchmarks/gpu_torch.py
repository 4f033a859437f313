"""`gpu.py` on PyTorch."""

import gc

import torch


def wait(model):
    """For the device to end what it was given."""
    del model
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(fit):
    """The most bytes that late steps have allocated, or `None` on a CPU.

    Args:
        fit: Function that trains for some steps, and calls a function that it
            is given before the late ones.
    """
    if not torch.cuda.is_available():
        return None
    gc.collect()
    before = torch.cuda.memory_allocated()
    fit(torch.cuda.reset_peak_memory_stats)
    return torch.cuda.max_memory_allocated() - before
