"""`devices.py` on PyTorch: `DistributedDataParallel`, a process a device."""

import socket

import keras
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import keras_grades

# What may be shared.
PARALLEL = ("data",)
# How many processes train together.
_count = 2


def make(count):
    """Has so many processes train, each with a part of the CPU."""
    global _count
    _count = count


def sent(task, parallel):
    """Bytes of gradients that each process gives to be averaged.

    `fit()` of Keras before 3.16 does not train processes together, so these
    are loops, and a communication hook counts. See `devices.py`.
    """
    del parallel
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"tcp://localhost:{free.getsockname()[1]}"
    manager = torch.multiprocessing.Manager()
    found = manager.list()
    torch.multiprocessing.spawn(
        _train, (address, _count, task, found), nprocs=_count
    )
    return _count, list(found)


def _train(rank, address, count, task, found):
    """The first process reports, of two loops: plain, and with GradES."""
    distributed.init_process_group("gloo", address, world_size=count, rank=rank)
    plain, _ = _steps(task, with_grades=False)
    watched, frozen = _steps(task, with_grades=True)
    if rank == 0:
        found.extend([plain, watched, frozen])
    distributed.destroy_process_group()


def _steps(task, with_grades):
    """The bytes of the first step, and of the last of three."""
    model = task.build()
    optimizer = model.optimizer
    if with_grades:
        components = keras_grades.find_components(model)
        optimizer = keras_grades.GradESOptimizer(
            optimizer, components, **task.policy(model)
        )
    optimizer.build(model.trainable_variables)
    counts = []
    replicas = _replicas(model, counts)
    x, y = task.batch()
    for _ in range(3):
        counts.append(0)
        loss = model.compute_loss(y=_tensor(y), y_pred=replicas(_tensor(x)))
        replicas.zero_grad()
        loss.backward()
        variables = model.trainable_variables
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in variables], variables)
        if with_grades and optimizer.freeze_structurally():
            replicas = _replicas(model, counts)
    return counts[0], counts[-1]


def _replicas(model, counts):
    replicas = DistributedDataParallel(model)
    count(replicas, counts)
    return replicas


def count(replicas, counts):
    """Adds the bytes of gradients that are sent to the last entry of a list.

    Args:
        replicas: `DistributedDataParallel`.
        counts: List of integers.
    """

    def average(state, bucket):
        counts[-1] += bucket.buffer().nbytes
        flat = bucket.buffer() / distributed.get_world_size()
        work = distributed.all_reduce(flat, async_op=True).get_future()
        return work.then(lambda future: future.value()[0])

    replicas.register_comm_hook(None, average)


def _tensor(values):
    return keras.tree.map_structure(keras.ops.convert_to_tensor, values)
