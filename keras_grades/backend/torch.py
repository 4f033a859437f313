"""PyTorch: the step is eager, or traced by `torch.compile`."""

import math

import torch

from keras_grades.backend.base import Backend


class TorchBackend(Backend):
    def norms(self, tensors, norm):
        """The norm of each tensor.

        On a CPU one at a time, so that intermediate values stay in a cache,
        and a sum of absolute values takes less than half as long as
        `vector_norm`; elsewhere at once, since each call costs more than its
        work.
        """
        if isinstance(tensors, list) and tensors[0].device.type != "cpu":
            return norms_at_once(tensors, norm)
        tensors = (t.detach().float() for t in tensors)
        if norm == "l2":
            return torch.stack([torch.linalg.vector_norm(t) for t in tensors])
        return torch.stack([t.abs().sum() for t in tensors])

    def branches(self, tensor):
        """Only on the CPU, where looking at a flag costs nothing.

        Elsewhere, and inside `torch.compile`, it would make the host wait.
        """
        return tensor.device.type == "cpu" and not torch.compiler.is_compiling()

    def compiles(self, model):
        return bool(model.jit_compile)

    def max_rebuilds(self, model):
        """How often the train step may be rebuilt in one `fit()`.

        Dynamo falls back to eager for good, with no more than a line in its
        log, when it has compiled one function too often. Each rebuild is two
        times: when gradients are no longer asked for, and when they are gone.
        """
        if not self.compiles(model):
            return math.inf
        limit = torch._dynamo.config.recompile_limit
        return max(limit // 2 - 1, 0)


def norms_at_once(tensors, norm):
    """The same, in one call for all."""
    tensors = [t.detach().float() for t in tensors]
    return torch.stack(torch._foreach_norm(tensors, 2 if norm == "l2" else 1))
