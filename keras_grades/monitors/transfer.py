"""Whether what is learned on some examples still helps the next ones.

Training is cut into windows. From one window to the next the mean weights
have gone some way; the mean gradient of the window after those says where its
examples want them to go. The cosine between the two is positive while what
was learned on some examples helps others, that were not yet seen, and falls
through zero when it no longer does. Means over windows cancel the bouncing
of a large learning rate. The cosine has no scale, and its threshold, zero, a
meaning.

Related: stiffness (Fort et al., 2019, arXiv 1901.09491), the evidence-based
criterion (Mahsereci et al., 2017, arXiv 1703.09580), SASA (Lang et al., 2019,
arXiv 1909.09731).
"""

import numpy as np
from keras import ops

from keras_grades.monitors.base import UNDEFINED
from keras_grades.monitors.base import Monitor
from keras_grades.monitors.base import StateSpec
from keras_grades.monitors.sample import of_matrices
from keras_grades.monitors.sample import sample

# So many entries at most stand for a component.
ENTRIES = 256
# The horizon has this many parts. Fewer steps in one than these are noise.
PARTS, LEAST_PART = 6, 5
# Windows of two parts compare over the horizon, those of one part over half
# of it: a column of the state for each of them, the short windows first.
# So many parts are needed for a first comparison.
NEEDED = np.array([3, PARTS], "int32")
# Recent comparisons count: about two windows' worth, or this share of all, if
# that is more. A mean with such weights is as old, on average, as a plain
# mean over the last third of the run.
RECENT = np.array([2.0, 4.0], "float32")
RECENT_SHARE = 0.2
# Weights that have moved by less than this share of their norm are being
# fine-tuned: they move by one or two per cent before nothing more transfers,
# those of a model that begins at random by some twenty.
LITTLE = 0.06
TINY = 1e-30


class Transfer(Monitor):
    """`"transfer"`: the cosine between where weights went and should go next.

    Its state has one entry a component. `"seen"` counts steps. `"path"` and
    `"pull"` are sums, over the latest parts, of how far the weights are from
    where they began, and of the gradients; the first of each is the part that
    goes on. `"products"` and `"norms"` are means of the numerator and the
    denominator of the cosine, over short and over long windows.

    Args:
        horizon: Integer, steps over which the comparison reaches.
        adapts: Boolean, whether components that have moved little are
            compared over half of it. Defaults to `False`.
    """

    def __init__(self, horizon, adapts=False):
        self.part = max(LEAST_PART, horizon // PARTS)
        self.adapts = adapts
        self.first_step = self.part * PARTS

    def init(self, components):
        n = len(components)
        # A LoRA pair begins at zero, and only ever fine-tunes.
        self._may_be_new = np.array([not _is_lora(c) for c in components])
        return {
            "seen": StateSpec((n,), "int32"),
            "start": StateSpec((n, ENTRIES)),
            "path": StateSpec((n, PARTS, ENTRIES)),
            "pull": StateSpec((n, 2, ENTRIES)),
            "moved": StateSpec((n,)),
            "products": StateSpec((n, 2)),
            "norms": StateSpec((n, 2)),
        }

    def before(self, state, gradients, variables):
        gradients = _samples(gradients, variables)
        # One bad batch does not spoil a window.
        return ops.where(ops.isfinite(gradients), gradients, 0.0)

    def after(self, state, carry, variables):
        weights = _samples(variables, variables)
        seen = state["seen"] + 1
        start = ops.where(seen[:, None] == 1, weights, state["start"])
        path = _added(state["path"], weights - start)
        pull = _added(state["pull"], carry)
        ends = seen % self.part == 0
        products, norms = compare(path, pull)
        counts = seen[:, None] // self.part + 1 - NEEDED
        keep = ops.logical_and(ends[:, None], counts > 0)
        new = {
            "seen": seen,
            "start": start,
            "path": ops.where(ends[:, None, None], _shifted(path), path),
            "pull": ops.where(ends[:, None, None], _shifted(pull), pull),
            "moved": ops.where(
                ends, _moved(path, start) / self.part, state["moved"]
            ),
        }
        for name, value in (("products", products), ("norms", norms)):
            mean = _mean(state[name], value, counts)
            new[name] = ops.where(keep, mean, state[name])
        return self._statistic(new), new

    def _statistic(self, state):
        cosine = state["products"] / ops.maximum(state["norms"], TINY)
        if self.adapts:
            is_new = ops.logical_and(state["moved"] >= LITTLE, self._may_be_new)
            cosine = ops.where(is_new, cosine[:, 1], cosine[:, 0])
        else:
            cosine = cosine[:, 1]
        # A first short comparison or two are noise.
        is_known = state["seen"] >= self.first_step
        return ops.where(is_known, cosine, UNDEFINED)


def _is_lora(component):
    return any("lora_kernel" in v.path for v in component.variables)


def compare(path, pull):
    """Compares where weights went with where the next window wants them.

    Args:
        path: Float tensor of shape `(n, 6, entries)`, sums of the weights
            over the latest parts, the latest first.
        pull: Float tensor of shape `(n, 2, entries)`, that of gradients.

    Returns:
        Inner products and products of norms, of shape `(n, 2)`: for windows
        of one part, and of two. Their ratio is the cosine.
    """
    # The newest window of weights is that of the gradients: it is left out.
    went = [path[:, 1] - path[:, 2]]
    went += [path[:, 2] + path[:, 3] - path[:, 4] - path[:, 5]]
    wanted = [-pull[:, 0], -pull[:, 0] - pull[:, 1]]
    went, wanted = ops.stack(went, axis=1), ops.stack(wanted, axis=1)
    return ops.sum(went * wanted, axis=-1), _norm(went) * _norm(wanted)


def _norm(tensor):
    return ops.sqrt(ops.sum(ops.square(tensor), axis=-1))


def _added(parts, values):
    """Adds to the part that goes on."""
    return ops.concatenate(
        [parts[:, :1] + values[:, None], parts[:, 1:]], axis=1
    )


def _shifted(parts):
    """Begins a new part; the oldest goes."""
    return ops.concatenate(
        [ops.zeros_like(parts[:, :1]), parts[:, :-1]], axis=1
    )


def _mean(mean, value, counts):
    """A mean in which recent values count."""
    counts = ops.cast(ops.maximum(counts, 1), "float32")
    last = ops.maximum(ops.minimum(counts, RECENT), RECENT_SHARE * counts)
    return mean + (value - mean) / last


def _moved(path, start):
    return _norm(path[:, 0]) / ops.maximum(_norm(start), TINY)


def _samples(tensors, variables):
    """Some entries of each component, in a row of fixed length."""
    return ops.stack(list(map(_row, tensors, variables)))


def _row(tensors, variables):
    kept = of_matrices(variables)
    if not kept:
        return ops.zeros((ENTRIES,), "float32")
    share = ENTRIES // len(kept)
    parts = [
        ops.reshape(sample(tensors[i], variables[i].shape, share), (-1,))
        for i in kept
    ]
    row = ops.cast(ops.concatenate(parts), "float32")
    return ops.pad(row, (0, ENTRIES - row.shape[0]))
