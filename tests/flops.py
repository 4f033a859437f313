"""What XLA counts, for the tests on JAX."""

import keras
import small


def of_a_step(model, frozen=(), batch_size=4):
    """The operations of a train step with variables of such paths frozen."""
    import jax

    flipped = [v for v in model.variables if v.trainable and v.path in frozen]
    for v in flipped:
        v.trainable = False
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    whole, model.optimizer = model.optimizer, optimizer
    data = small.data(1, batch_size, width=model.inputs[0].shape[-1])
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    cost = jax.jit(model.train_step).lower(state, data)
    model.optimizer = whole
    for v in flipped:
        v.trainable = True
    return cost.cost_analysis()["flops"]
