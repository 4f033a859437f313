"""What a rebuilt train step saves: counted, then measured."""

import math

import numpy as np

from keras_grades.discovery.tree import embedding_variable_ids
from keras_grades.discovery.tree import is_adapted
from keras_grades.discovery.tree import layer_tree
from keras_grades.keras_internals.layers import own_variables
from keras_grades.keras_internals.layers import raw_kernel


class StepWork:
    """Counts the operations of a step that freezing removes.

    In products of matrices: a step multiplies each matrix with a batch,
    forward, backward for its own gradient if it is trained, and backward for
    the gradient of its input if anything below is trained. Then it updates
    what is trained.

    Args:
        variables: List of m `keras.Variable`, in the order in which data
            meets them.
        products: List of m integers: the parameters that a batch is
            multiplied with for the sake of each.
        components: List of n `Component`.
        followers: List of `Followers`, those that become structural too.
    """

    # An optimizer reads and writes a few arrays for each parameter. That is
    # little compared with a product with a batch of a thousand tokens, but
    # slow.
    UPDATE = 0.3

    def __init__(self, variables, products, components, followers):
        self._products = np.array(products)
        self._updates = self.UPDATE * np.array(
            [math.prod(v.shape) for v in variables]
        )
        self._is_trainable = np.array([v.trainable for v in variables])
        self._followers = followers
        # The group of each variable, or that of all that never freeze.
        groups = [*components, *followers]
        group_of = {id(v): i for i, g in enumerate(groups) for v in g.variables}
        self._group = np.array(
            [group_of.get(id(v), len(groups)) for v in variables]
        )
        self._total = self._of(self._is_trainable)

    def share(self, frozen):
        """The share of a step's work that is saved.

        Args:
            frozen: Boolean array of shape `(n,)`, which components are
                structurally frozen.
        """
        follow = [f.are_frozen(frozen) for f in self._followers]
        is_frozen = np.array([*frozen, *follow, False])[self._group]
        return 1 - self._of(self._is_trainable & ~is_frozen) / self._total

    def _of(self, is_trained):
        """The work of a step that trains these variables."""
        # The backward pass ends at the first of them.
        first = is_trained.argmax() if is_trained.any() else len(is_trained)
        return (
            self._products.sum()
            + self._products[first + 1 :].sum()
            + (self._products + self._updates)[is_trained].sum()
        )


def work_of(model, components, followers):
    """`StepWork` of a model, its variables trainable as they are now."""
    tree = layer_tree(model)
    layers = [node.layer for node in tree.walk()]
    variables = {id(v): v for layer in layers for _, v in own_variables(layer)}
    looked_up = embedding_variable_ids(tree)
    products = {
        key: math.prod(v.shape)
        for key, v in variables.items()
        if len(v.shape) > 1 and key not in looked_up
    }
    for layer in layers:
        if is_adapted(layer) and layer.quantization_mode is None:
            # Keras adds the pair to the kernel, and takes the gradient of the
            # sum: it is for the sake of the pair.
            kernel = id(raw_kernel(layer))
            variables.pop(kernel, None)
            pair = layer.lora_kernel_a, layer.lora_kernel_b
            products |= dict(zip(map(id, pair), (products.pop(kernel, 0), 0)))
    return StepWork(
        list(variables.values()),
        [products.get(key, 0) for key in variables],
        components,
        followers,
    )


class SavingEstimate:
    """Seconds a step that a rebuilt train step saves.

    The share of a step's time that its matrices take depends on everything
    else in it, so the count is corrected by what earlier rebuilds saved.
    """

    def __init__(self):
        # Attention scores, norms and embeddings take time too.
        self._correction = 0.5

    def seconds(self, share, step_seconds):
        """What a step without a share of its work saves."""
        return self._correction * share * step_seconds

    def observe(self, share, before, after):
        """Learns from a rebuild: seconds a step before and after."""
        counted = share * before
        if counted > 0:
            observed = min(max((before - after) / counted, 0.0), 2.0)
            self._correction = (self._correction + observed) / 2
