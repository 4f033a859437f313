"""`gpu.py` on PyTorch."""

import gc

import torch


def wait(model):
    """For the device to end what it was given."""
    del model
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(fit):
    """The most bytes that were allocated while `fit` ran, or `None`."""
    if not torch.cuda.is_available():
        return None
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    fit()
    return torch.cuda.max_memory_allocated() - before
