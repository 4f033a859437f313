"""PyTorch: the step is eager, or traced by `torch.compile`."""

import math
import warnings

import keras
import torch
from torch import distributed

from keras_grades.backend.base import Backend
from keras_grades.keras_internals import ddp


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

    def begin_to_read(self, optimizer, model, output):
        """On a GPU to memory that can be copied to beside what comes next."""
        values = {k: v.value.detach() for k, v in optimizer.observed.items()}
        if not all(v.is_cuda for v in values.values()):
            return super().begin_to_read(optimizer, model, output)
        copies = {
            k: torch.empty(
                v.shape, dtype=v.dtype, device="cpu", pin_memory=True
            )
            for k, v in values.items()
        }
        for k, value in values.items():
            copies[k].copy_(value, non_blocking=True)
        # That of the device that copies, which need not be the current one.
        is_copied = torch.cuda.Event()
        is_copied.record(torch.cuda.current_stream(values["step"].device))

        def state():
            is_copied.synchronize()
            return {k: v.numpy() for k, v in copies.items()}

        return state

    def agree(self, model, decision):
        replicas = ddp.of(model)
        if replicas is None:
            return decision
        said, group = [decision], replicas.process_group
        first = distributed.get_global_rank(group, 0)
        distributed.broadcast_object_list(said, first, group)
        return said[0]

    def check_agreement(self, model, frozen_at):
        """Raises if processes that train together have parted.

        Each decides for itself, from the same gradients. On unlike hardware
        these may differ in their last bits.
        """
        replicas = ddp.of(model)
        if replicas is None:
            return
        group = replicas.process_group
        found = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(found, frozen_at.tolist(), group)
        steps = next((s for s in zip(*found) if len(set(s)) > 1), None)
        if steps is not None:
            raise RuntimeError(
                "The processes have frozen different matrices, so that their "
                "weights differ from here on. They must run on the same kind "
                "of device, with the same settings. Received, of the first "
                "matrix that differs, the step at which each process has "
                f"frozen it, or 0: {steps}"
            )

    def trains(self, variable):
        """Or by that of PyTorch: to set the flag would set that, too."""
        return variable.trainable and variable.value.requires_grad

    def renew(self, model):
        """A `DistributedDataParallel` waits for all that it was made with."""
        if ddp.of(model) is None:
            return False
        ddp.discard(model)
        return True

    def check_model(self, model):
        _check_whole(model.parameters())
        if _processes() > 1 and ddp.of(model) is None:
            warnings.warn(
                f"There are {_processes()} processes, and `fit()` of Keras "
                f"{keras.__version__} trains a model of its own in each, "
                "unless your `train_step` adds up their gradients. Keras "
                "3.16 does. What GradES freezes here stays in the backward "
                "pass: `DistributedDataParallel` would wait for it.",
                stacklevel=2,
            )

    def check_devices(self, optimizer, variables):
        _check_whole([v.value for v in variables])

    def compiles(self, model):
        """Also where no code is: a `DistributedDataParallel` is made anew."""
        return bool(model.jit_compile) or ddp.of(model) is not None

    def max_rebuilds(self, model):
        """How often the train step may be rebuilt in one `fit()`.

        Not where the processes of a distributed training wait for gradients
        of all that there was at first.

        Dynamo falls back to eager for good, with no more than a line in its
        log, when it has compiled one function too often. Each rebuild is two
        times: when gradients are no longer asked for, and when they are gone.
        """
        if _processes() > 1 and ddp.of(model) is None:
            return 0
        if not model.jit_compile:
            return math.inf
        limit = torch._dynamo.config.recompile_limit
        return max(limit // 2 - 1, 0)


def _processes():
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def _check_whole(parameters):
    """Refuses parameters of which each process has a part."""
    if _processes() == 1:
        return
    from torch.distributed.tensor import DTensor  # It takes a second.

    shared = [p for p in parameters if isinstance(p, DTensor)]
    if shared:
        raise ValueError(
            "GradES cannot train parameters that are spread over processes on "
            "PyTorch (`DTensor`, as of FSDP2 or "
            "`keras.distribution.ModelParallel`). Use "
            "`DistributedDataParallel`, or the JAX backend. Received: "
            f"{len(shared)} of them, the first of shape "
            f"{tuple(shared[0].shape)}"
        )


def norms_at_once(tensors, norm):
    """The same, in one call for all."""
    tensors = [t.detach().float() for t in tensors]
    return torch.stack(torch._foreach_norm(tensors, 2 if norm == "l2" else 1))
