"""`gpu.py` on TensorFlow."""

import tensorflow as tf


def wait(model):
    """For the device to end what it was given."""
    model.optimizer.iterations.numpy()


def peak(fit):
    """The most bytes that late steps have allocated, or `None` on a CPU.

    Args:
        fit: Function that trains for some steps, and calls a function that it
            is given before the late ones.
    """
    if not tf.config.list_physical_devices("GPU"):
        return None
    memory = tf.config.experimental
    before = memory.get_memory_info("GPU:0")["current"]
    fit(lambda: memory.reset_memory_stats("GPU:0"))
    return memory.get_memory_info("GPU:0")["peak"] - before
