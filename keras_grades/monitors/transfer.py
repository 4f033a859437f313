"""Whether what is learned on some examples still helps the next ones.

Training is cut into windows. From one window to the next the mean weights
have gone some way; the mean gradient of the window after those says where its
examples want them to go. The cosine between the two is positive while what
was learned on some examples helps those that come next, and falls through
zero when it no longer does. Means over windows cancel the bouncing of a large
learning rate. The cosine has no scale, and its threshold, zero, a meaning. It
is taken of each component, by some of its entries:

    c_i = <p_i, q_i> / |p_i| |q_i|

with p_i the path of component i and q_i its pull, against the gradient. The
mean of all decides. It is not weighted: a few components have most of the norm
of the gradients, and their noise would be that of the mean.

Related: stiffness (Fort et al., 2019, arXiv 1901.09491), the evidence-based
criterion (Mahsereci et al., 2017, arXiv 1703.09580), SASA (Lang et al., 2019,
arXiv 1909.09731).
"""

import math

import numpy as np
from keras import ops

from keras_grades.monitors.base import UNDEFINED
from keras_grades.monitors.base import Monitor
from keras_grades.monitors.base import StateSpec
from keras_grades.monitors.sample import ENTRIES
from keras_grades.monitors.sample import samples

# The horizon has this many parts. Fewer steps in one than these are noise.
PARTS, LEAST_PART = 12, 3
# A long window has four parts: three of them reach over the horizon. A short
# one has one part, or as many as it takes for so many steps.
LONG, LEAST_WINDOW = 4, 5
# Recent comparisons count: four windows' worth, or this share of all, if that
# is more. A mean with such weights is as old, on average, as a plain mean over
# the last third of the run.
RECENT_SHARE = 0.2
# Weights that have moved by less than this share of their norm are being
# fine-tuned: they move by one or two per cent before nothing more transfers,
# those of a model that begins at random by some twenty, by four at a low rate.
LITTLE = 0.03
TINY = 1e-30


class Transfer(Monitor):
    """`"transfer"`: the cosine between where weights went and should go next.

    Its state has one entry a component. `"seen"` counts steps. `"path"` and
    `"pull"` are sums, over the latest parts, of how far the weights are from
    where they began, and of the gradients; the first of each is the part that
    goes on. `"cosine"` is the mean of its recent cosines, over short and over
    long windows.

    Args:
        horizon: Integer, steps over which the comparison reaches.
        adapts: Boolean, whether a model that has moved little is compared
            over a quarter of it. Defaults to `False`.
    """

    def __init__(self, horizon, adapts=False):
        self.horizon = horizon
        self.part = max(LEAST_PART, round(horizon / PARTS))
        self.adapts = adapts
        short = math.ceil(LEAST_WINDOW / self.part)
        # In parts, a column of the cosines for each.
        self._windows = np.array([short, LONG], "int32")
        # So many are needed for a first comparison, and so many comparisons
        # before anything is known: a mean of fewer is noise.
        self._needed, self._recent = 3 * self._windows, 4 * self._windows
        self._known = self.part * (self._needed + self._recent - 1)
        self.first_step = int(self._known[0 if adapts else 1])

    def init(self, components):
        n = len(components)
        # A LoRA pair begins at zero, and only ever fine-tunes.
        self._may_be_new = np.array([not _is_lora(c) for c in components])
        return {
            "seen": StateSpec((n,), "int32"),
            "start": StateSpec((n, ENTRIES)),
            "path": StateSpec((n, PARTS, ENTRIES)),
            "pull": StateSpec((n, LONG, ENTRIES)),
            "moved": StateSpec((n,)),
            "cosine": StateSpec((n, 2)),
        }

    def before(self, state, gradients, variables):
        gradients = samples(gradients, variables)
        # One bad batch does not spoil a window.
        gradients = ops.where(ops.isfinite(gradients), gradients, 0.0)
        # The weights that it is the gradient at.
        return gradients, samples(variables, variables)

    def after(self, state, carry, variables):
        del variables
        gradients, weights = carry
        seen = state["seen"] + 1
        start = ops.where(seen[:, None] == 1, weights, state["start"])
        path = _added(state["path"], weights - start)
        pull = _added(state["pull"], gradients)
        ends = seen % self.part == 0
        # Not a minus: PyTorch leaves that to numpy, which knows no device.
        counts = ops.subtract(seen[:, None] // self.part + 1, self._needed)
        is_new = ops.logical_and(ends[:, None], counts > 0)
        # What takes no part in this step is not compared with.
        takes_part = ops.any(ops.not_equal(gradients, 0), axis=1, keepdims=True)
        is_new = ops.logical_and(is_new, takes_part)
        cosine = _mean(
            state["cosine"],
            cosines(path, pull, self._windows),
            counts,
            self._recent,
        )
        new = {
            "seen": seen,
            "start": start,
            "path": ops.where(ends[:, None, None], _shifted(path), path),
            "pull": ops.where(ends[:, None, None], _shifted(pull), pull),
            "moved": ops.where(
                ends, _moved(path, start) / self.part, state["moved"]
            ),
            "cosine": ops.where(is_new, cosine, state["cosine"]),
        }
        return self._statistic(new), new

    def _statistic(self, state):
        is_known = ops.greater_equal(state["seen"][:, None], self._known)
        known = ops.where(is_known, state["cosine"], UNDEFINED)
        if not self.adapts:
            return known[:, 1]
        return ops.where(self._is_new(state), known[:, 1], known[:, 0])

    def _is_new(self, state):
        """Whether most of a model has moved far: then long windows count."""
        is_seen = state["seen"] > 0
        is_new = ops.logical_and(state["moved"] >= LITTLE, self._may_be_new)
        is_new = ops.logical_and(is_new, is_seen)
        count, of = (ops.sum(ops.cast(w, "int32")) for w in (is_new, is_seen))
        return 2 * count > of


def _is_lora(component):
    return any("lora_kernel" in v.path for v in component.variables)


def cosines(path, pull, windows):
    """Compares where weights went with where the next window wants them.

    Args:
        path: Float tensor of shape `(n, 12, entries)`, sums of the weights
            over the latest parts, the latest first.
        pull: Float tensor of shape `(n, 4, entries)`, that of gradients.
        windows: Two integers, how many parts a window has.

    Returns:
        Float tensor of shape `(n, 2)`, a cosine for each of `windows`.
    """
    went, wanted = [], []
    for w in windows:
        # The newest window of weights is that of the gradients.
        later, earlier = path[:, w : 2 * w], path[:, 2 * w : 3 * w]
        went.append(ops.sum(later, axis=1) - ops.sum(earlier, axis=1))
        wanted.append(-ops.sum(pull[:, :w], axis=1))
    went, wanted = ops.stack(went, axis=1), ops.stack(wanted, axis=1)
    norms = ops.maximum(_norm(went) * _norm(wanted), TINY)
    return ops.sum(went * wanted, axis=-1) / norms


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


def _mean(mean, value, counts, recent):
    """A mean in which recent values count."""
    counts = ops.cast(ops.maximum(counts, 1), "float32")
    last = ops.minimum(counts, recent.astype("float32"))
    last = ops.maximum(last, RECENT_SHARE * counts)
    return mean + (value - mean) / last


def _moved(path, start):
    return _norm(path[:, 0]) / ops.maximum(_norm(start), TINY)
