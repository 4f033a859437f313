"""When to make freezes structural: a rebuilt step is faster, but not free."""

import numbers

# Of the cost of a rebuild, how much time may be lost before it is paid.
HESITATION = 0.25


def is_worth_it(cost, saving, remaining, lost):
    """Whether to rebuild the train step now.

    This is the ski-rental problem: keep paying a little each step, or pay
    once; and how many steps there will be is only predicted, since training
    stops when everything has converged. After Purohit et al. (2018,
    "Improving online algorithms via ML predictions") it trusts the
    prediction, but only once a share h (`HESITATION`) of the cost has been
    lost already. Compared with the best choice in hindsight, which loses
    `min(cost, saving * steps that were left)`, it loses

    - never more, if the predicted saving does not cover the cost,
    - at most 1 + h times as much, if training goes on as predicted,
    - at most 1 + 1 / h times as much, if it stops at the worst moment, right
      after the rebuild.

    The wait also collects freezes that come one by one into one rebuild.

    Args:
        cost: Float, seconds that a rebuild takes.
        saving: Float, seconds a step that it will save.
        remaining: Float, steps that remain, `inf` if unknown.
        lost: Float, seconds that a rebuild at the first of these freezes
            would have saved so far.

    Returns:
        Boolean.
    """
    if saving <= 0:
        return False
    return saving * remaining > cost and lost >= HESITATION * cost


class SavingEstimate:
    """Seconds a step that a rebuilt train step saves.

    Counted in products of matrices: a step multiplies each matrix three
    times, forward, backward for the gradient of its input and backward for
    its own gradient, and freezing saves the third. How much of a step's time
    that is depends on everything else in it, so the count is corrected by
    what earlier rebuilds saved.

    Args:
        parameters: Integer, in all matrices of the model.
    """

    def __init__(self, parameters):
        self._parameters = parameters
        # Attention scores, norms, embeddings and the optimizer take time too.
        self._correction = 0.5

    def seconds(self, frozen_parameters, step_seconds):
        """What freezing so many parameters would save, of such a step."""
        return self._correction * self._share(frozen_parameters) * step_seconds

    def _share(self, frozen_parameters):
        return frozen_parameters / (3 * self._parameters)

    def observe(self, frozen_parameters, before, after):
        """Learns from a rebuild: seconds a step before and after."""
        counted = self._share(frozen_parameters) * before
        if counted > 0:
            observed = min(max((before - after) / counted, 0.0), 2.0)
            self._correction = (self._correction + observed) / 2


class Recompile:
    """Keeps the time and says when to rebuild the train step.

    Args:
        mode: `"always"`, `"never"`, `"auto"` or an integer, the number of
            newly frozen components at which to rebuild.
        parameters: Integer, in all matrices of the model.
        total_steps: Integer, the planned steps, or None.
        rebuild_is_free: Boolean, whether nothing is compiled.
    """

    def __init__(self, mode, parameters, total_steps, rebuild_is_free):
        self.mode = mode
        self.compilations = []
        self._estimate = SavingEstimate(parameters)
        self._total_steps = total_steps
        self._rebuild_is_free = rebuild_is_free
        self._structural = []
        self._newest = []
        self._lost = 0.0
        self._saved = {"estimated": 0.0, "measured": 0.0}
        self._step_seconds = []

    def compiled(self, step, seconds):
        """Tells how long the first call of a train function took."""
        self.compilations.append(
            {
                "step": step,
                "seconds": seconds,
                "frozen": len(self._structural),
                "step_seconds_before": self.step_seconds,
                "step_seconds_after": None,
            }
        )
        self._step_seconds = []

    def ran(self, steps, seconds, pending):
        """Tells how long some steps took, with components yet to rebuild."""
        self._step_seconds.append(seconds / steps)
        saving = self._estimate.seconds(_size(pending), self.step_seconds)
        self._lost += saving * steps
        if self.compilations:
            self._compare(self.compilations[-1], steps)

    def _compare(self, last, steps):
        """Holds the steps since a compilation against those before."""
        is_first = last["step_seconds_after"] is None
        last["step_seconds_after"] = self.step_seconds
        if last["step_seconds_before"] is None:
            return
        if is_first:
            self._estimate.observe(
                _size(self._newest),
                last["step_seconds_before"],
                self.step_seconds,
            )
        full = self.compilations[0]["step_seconds_after"]
        self._saved["measured"] += (full - self.step_seconds) * steps
        self._saved["estimated"] += steps * self._estimate.seconds(
            _size(self._structural), full
        )

    @property
    def step_seconds(self):
        """Median seconds a step since the last rebuild, or None."""
        if not self._step_seconds:
            return None
        return sorted(self._step_seconds)[len(self._step_seconds) // 2]

    def is_due(self, step, pending):
        """Whether to rebuild now, with these newly frozen components."""
        if not pending or self.mode == "never":
            return False
        if self.mode == "always" or self._rebuild_is_free:
            return True
        if self.mode != "auto":
            return len(pending) >= self.mode
        if self.step_seconds is None:
            return False
        total = float("inf") if self._total_steps is None else self._total_steps
        return is_worth_it(
            cost=self.compilations[-1]["seconds"],
            saving=self._estimate.seconds(_size(pending), self.step_seconds),
            remaining=total - step,
            lost=self._lost,
        )

    def rebuilt(self, components):
        """Tells that these components are structurally frozen now."""
        self._structural += components
        self._newest = components
        self._lost = 0.0

    def timing(self):
        """What `FreezeReport` shows; savings are without the rebuilds."""
        return {
            "compilations": [dict(c) for c in self.compilations],
            "seconds_saved_estimated": self._saved["estimated"],
            "seconds_saved_measured": self._saved["measured"],
        }


def _size(components):
    return sum(c.size for c in components)


def check_mode(mode):
    """Raises unless `recompile` is one of what it may be."""
    if isinstance(mode, str):
        if mode not in ("auto", "always", "never"):
            raise ValueError(
                "`recompile` must be 'auto', 'always', 'never' or an integer "
                f">= 1. Received: recompile={mode!r}"
            )
    elif not isinstance(mode, numbers.Integral) or isinstance(mode, bool):
        raise TypeError(
            "`recompile` must be 'auto', 'always', 'never' or an integer "
            f">= 1. Received: recompile={mode!r} of type {type(mode).__name__}"
        )
    elif mode < 1:
        raise ValueError(
            "`recompile` as an integer, a number of newly frozen components, "
            f"must be >= 1. Received: recompile={mode!r}"
        )
