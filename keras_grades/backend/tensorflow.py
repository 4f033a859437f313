"""TensorFlow: the step is a graph of in-place updates, often without XLA."""

import tensorflow as tf

from keras_grades.backend.base import Backend


class TensorFlowBackend(Backend):
    builds_late = True

    def norms(self, tensors, norm):
        tensors = (tf.cast(t, "float32") for t in tensors)
        if norm == "l2":
            return tf.stack([tf.norm(t) for t in tensors])
        return tf.stack([tf.reduce_sum(tf.abs(t)) for t in tensors])

    def map(self, function, values):
        mapped = super().map
        return tf.function(lambda values: mapped(function, values))(values)

    def gradient_values(self, gradient):
        # That of an embedding may be sparse, and stays so.
        return gradient.values if _is_sparse(gradient) else gradient

    def with_gradient_values(self, gradient, values):
        if not _is_sparse(gradient):
            return values
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)

    def batch_spec(self, iterator):
        return iterator.element_spec

    def is_end_of_data(self, error):
        return isinstance(error, (StopIteration, tf.errors.OutOfRangeError))

    def check_devices(self, variables):
        """Refuses several replicas, of which the optimizer would see one."""
        strategies = [tf.distribute.get_strategy()]
        # It may be built outside of the scope that the model was made in.
        strategies += [
            v.value.distribute_strategy
            for v in variables
            if hasattr(v.value, "distribute_strategy")
        ]
        for strategy in strategies:
            replicas = strategy.num_replicas_in_sync
            if replicas > 1:
                raise ValueError(
                    "GradES cannot measure under a `tf.distribute` strategy "
                    "with several replicas: the optimizer sees the gradients "
                    f"of one only. Received: {type(strategy).__name__} with "
                    f"{replicas} replicas. Train on one replica, or use "
                    "`keras.distribution` on the JAX backend."
                )


def _is_sparse(gradient):
    return isinstance(gradient, tf.IndexedSlices)
