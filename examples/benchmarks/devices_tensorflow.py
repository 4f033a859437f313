"""`devices.py` on TensorFlow: replicas under `tf.distribute`."""

import contextlib

import tensorflow as tf

# What may be shared.
PARALLEL = ("data",)


def make(count):
    """Makes so many devices out of one CPU."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    )


def sent(task, parallel):
    """Bytes that each replica gives to be added up with those of the others.

    See `devices.py`.
    """
    del parallel
    strategy = tf.distribute.MirroredStrategy(
        [device.name for device in tf.config.list_logical_devices()]
    )
    with counted() as plain:
        with strategy.scope():
            model = task.build()
        task.fit(model, _data(task))
    with counted() as steps:
        with strategy.scope():
            model = task.build()
        task.fit(model, _data(task), task.half_frozen(model))
    return strategy.num_replicas_in_sync, [*plain, *steps]


def _data(task):
    # In batches whose size is known, so that what is sent can be counted.
    return tf.data.Dataset.from_tensors(task.batch()).repeat()


@contextlib.contextmanager
def counted():
    """A list of bytes, one entry for each step that is traced."""
    found, all_reduce = {}, tf.distribute.ReplicaContext.all_reduce
    sizes = []

    def counting(self, reduce_op, value, options=None):
        if tf.get_static_value(self.replica_id_in_sync_group) == 0:
            graph = tf.compat.v1.get_default_graph()
            place = found.setdefault(graph, len(sizes))
            sizes[place:] = [sum(sizes[place:]) + _size(value)]
        return all_reduce(self, reduce_op, value, options)

    tf.distribute.ReplicaContext.all_reduce = counting
    try:
        yield sizes
    finally:
        tf.distribute.ReplicaContext.all_reduce = all_reduce


def _size(value):
    tensors = tf.nest.flatten(value, expand_composites=True)
    return sum(t.dtype.size * t.shape.num_elements() for t in tensors)
