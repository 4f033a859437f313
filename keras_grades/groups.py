"""Which variables of a model freeze together."""

import numpy as np
from keras import ops

from keras_grades.backend import backend


class Groups:
    """The variables of each component, then of each of its followers.

    Args:
        components: Sequence of n `Component`.
        followers: Sequence of `Followers`.
        with_others: Boolean, whether all other variables form one more group.
            It never freezes; annealing holds it back with the components.
    """

    def __init__(self, components, followers, with_others):
        self._n = len(components)
        groups = [*components, *followers]
        self._index = {
            id(v): i for i, group in enumerate(groups) for v in group.variables
        }
        self._others = len(groups) if with_others else None
        # Which components each of the followers waits for.
        self._waits_for = np.zeros((len(followers), self._n), bool)
        for row, group in zip(self._waits_for, followers):
            row[list(group.components)] = True

    def index_of(self, variable):
        """The group of a variable, or `None`; components come first."""
        return self._index.get(id(variable), self._others)

    def split(self, gradients, variables):
        """Sorts gradients and variables by component.

        Args:
            gradients: List of tensors, `None` where there is none.
            variables: List of as many `keras.Variable`.

        Returns:
            Two lists of n tuples, without those that have no gradient.
        """
        found = [([], []) for _ in range(self._n)]
        for gradient, variable in zip(gradients, variables):
            index = self._index.get(id(variable), self._n)
            if gradient is not None and index < self._n:
                found[index][0].append(gradient)
                found[index][1].append(variable)
        return [tuple(g) for g, _ in found], [tuple(v) for _, v in found]

    def frozen(self, frozen):
        """Whether each group is frozen.

        Args:
            frozen: Boolean tensor of shape `(n,)`, which components are.
        """
        flags = [frozen]
        if len(self._waits_for):
            is_free = ops.logical_or(frozen, ~self._waits_for)
            flags.append(ops.all(is_free, axis=-1))
        if self._others is not None:
            flags.append(ops.zeros((1,), "bool"))
        return ops.concatenate(flags) if len(flags) > 1 else frozen

    def share(self, share):
        """The share of its update that each group takes.

        Variables that are not tracked settle with the components: they take
        the mean.

        Args:
            share: Float tensor of shape `(n,)`, that of each component.
        """
        rest = len(self._waits_for) + (self._others is not None)
        return ops.concatenate([share, ops.repeat(ops.mean(share), rest)])

    def spread(self, values, variables):
        """One value a group to a list of one for each of some variables."""
        scalars = backend.scalars(values)
        return [scalars[self.index_of(v)] for v in variables]
