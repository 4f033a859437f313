"""`gpu.py` on TensorFlow."""

import tensorflow as tf


def wait(model):
    """For the device to end what it was given."""
    model.optimizer.iterations.numpy()


def peak(fit):
    """The most bytes that were allocated while `fit` ran, or `None`."""
    if not tf.config.list_physical_devices("GPU"):
        return None
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    tf.config.experimental.reset_memory_stats("GPU:0")
    fit()
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
