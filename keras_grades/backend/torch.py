"""PyTorch: the step is eager, or traced by `torch.compile`."""

import math

import torch

from keras_grades.backend.masking import copies as snapshot
from keras_grades.backend.masking import update_branching
from keras_grades.backend.masking import update_masked
from keras_grades.backend.private import find_grades_optimizer

__all__ = [
    "check",
    "compiles",
    "guard_state",
    "keep_state",
    "max_rebuilds",
    "no_step",
    "norms",
    "read",
    "snapshot",
    "sync",
    "update_active",
    "with_frozen_ratio",
]


def norms(tensors, norm):
    """The norm of each tensor, as a float32 tensor of shape `(k,)`.

    On a CPU one at a time, so that what is made on the way stays in a cache,
    and a sum of absolute values takes less than half as long as
    `vector_norm`; elsewhere at once, since each call costs more than its work.
    """
    if isinstance(tensors, list) and tensors[0].device.type != "cpu":
        return norms_at_once(tensors, norm)
    tensors = (t.detach().float() for t in tensors)
    if norm == "l2":
        return torch.stack([torch.linalg.vector_norm(t) for t in tensors])
    return torch.stack([t.abs().sum() for t in tensors])


def norms_at_once(tensors, norm):
    """The same, in one call for all."""
    tensors = [t.detach().float() for t in tensors]
    return torch.stack(torch._foreach_norm(tensors, 2 if norm == "l2" else 1))


def update_active(update, gradients, variables, frozen, share, zero):
    """Branches where looking at a flag costs nothing, on the CPU.

    Elsewhere, and inside `torch.compile`, a branch would make the host wait.
    """
    if frozen.device.type == "cpu" and not torch.compiler.is_compiling():
        update_branching(update, gradients, variables, frozen, share, zero)
    else:
        before = snapshot(variables)
        update_masked(update, gradients, variables, before, frozen, share, zero)


def with_frozen_ratio(train_step, model):
    """Adds `frozen_ratio` to the logs of a `train_step(data)`."""

    def step(data):
        logs = train_step(data)
        optimizer = find_grades_optimizer(model)
        if optimizer is not None:
            logs["frozen_ratio"] = optimizer.frozen_ratio
        return logs

    return step


def read(optimizer, model, output=None):
    """The optimizer's state as arrays."""
    del model, output
    return {
        k: v.value.detach().cpu().numpy().copy()
        for k, v in optimizer.state.items()
    }


def sync(model):
    """Variables are always up to date."""
    del model


def guard_state(model, check_flags):
    """Nothing: the variables themselves are trained."""
    del model, check_flags


def keep_state(model, arguments, output):
    """Nothing: the variables themselves are trained."""
    del model, arguments, output


def no_step(logs, *arguments):
    """What a train function returns that has done nothing."""
    del arguments
    return logs


def check(model):
    """Nothing that `fit()` does on PyTorch is out of reach."""
    del model


def compiles(model):
    """Whether to rebuild the train step costs a compilation."""
    return bool(model.jit_compile)


def max_rebuilds(model):
    """How often the train step may be rebuilt in one `fit()`.

    Dynamo falls back to eager for good, with no more than a line in its log,
    when it has compiled one function too often. Each rebuild is two times:
    when gradients are no longer asked for, and when they are gone.
    """
    if not compiles(model):
        return math.inf
    limit = torch._dynamo.config.recompile_limit
    return max(limit // 2 - 1, 0)
