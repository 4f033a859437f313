"""TensorFlow: the step is a graph of in-place updates, often without XLA."""

import tensorflow as tf

from keras_grades import compatibility
from keras_grades.backend.base import Backend
from keras_grades.keras_internals import optimizers

# The strategies that keep each variable on all replicas, all alike.
MIRRORED = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
)


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

    def with_logs(self, train_step, model, optimizer):
        # One that is a `tf.function` of its own would keep its old traces.
        train_step = getattr(train_step, "python_function", train_step)
        return super().with_logs(train_step, model, optimizer)

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

    def scope(self, model):
        return _strategy_of(model.variables).scope()

    def sum_over_replicas(self, gradients):
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return gradients
        flat = tf.nest.flatten(gradients)
        given = [g for g in flat if g is not None]
        if not given:
            return gradients
        sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, given))
        flat = [None if g is None else next(sums) for g in flat]
        return tf.nest.pack_sequence_as(gradients, flat)

    def check_model(self, model):
        strategy = model.distribute_strategy
        replicas = strategy.num_replicas_in_sync
        if replicas > 1 and model.steps_per_execution > 1:
            raise ValueError(
                "Keras cannot take several steps in one execution with "
                "several replicas. Compile the model with "
                "`steps_per_execution=1`. Received: steps_per_execution="
                f"{model.steps_per_execution}, {type(strategy).__name__} with "
                f"{replicas} replicas"
            )

    def check_devices(self, optimizer, variables):
        """Refuses what Keras, or GradES, cannot do with several replicas."""
        strategy = _strategy_of(variables)
        replicas = strategy.num_replicas_in_sync
        if replicas == 1:
            return
        received = f"{type(strategy).__name__} with {replicas} replicas"
        if not isinstance(strategy, MIRRORED):
            raise ValueError(
                "With several replicas GradES needs a strategy that keeps all "
                "variables on each of them: `tf.distribute.MirroredStrategy`, "
                "or, in a loop of your own, `MultiWorkerMirroredStrategy`. "
                f"Received: {received}"
            )
        inner = optimizers.inner_optimizers(optimizer.inner_optimizer)
        for counter in map(optimizers.counter, (optimizer, *inner)):
            if _marked_strategy(counter) is not strategy:
                raise ValueError(
                    "Make the `GradESOptimizer`, and the optimizer in it, "
                    "where the variables of the model were made: inside "
                    f"`strategy.scope()`. Received: variables of {received}"
                )
        compatibility.check_replicas(optimizer.inner_optimizer, received)


def _strategy_of(variables):
    """The `tf.distribute.Strategy` that variables were made under.

    Those of one replica may not tell; then it is the present one.
    """
    marked = filter(None, map(_marked_strategy, variables))
    return next(marked, tf.distribute.get_strategy())


def _marked_strategy(variable):
    return getattr(variable.value, "distribute_strategy", None)


def _is_sparse(gradient):
    return isinstance(gradient, tf.IndexedSlices)
