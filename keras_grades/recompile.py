"""When to make freezes structural: a rebuilt step is faster, but not free."""

import numbers

import numpy as np

# Of the cost of a rebuild, how much time may be lost before it is paid, once
# nothing newly freezes.
HESITATION = 0.25


def is_worth_it(cost, saving, remaining, lost, lost_since_last):
    """Whether to rebuild the train step now.

    This is the ski-rental problem: keep paying a little each step, or pay
    once; and how many steps there will be is only predicted, since training
    stops when everything has converged. After Purohit et al. (2018,
    "Improving online algorithms via ML predictions") it trusts the
    prediction, but only once a share h (`HESITATION`) of the cost has been
    lost since the last freeze. Where freezes keep coming, so may the end,
    and it waits until the whole cost has been lost, as one does who predicts
    nothing. Compared with the best choice in hindsight, which loses
    `min(cost, saving * steps that were left)`, it loses

    - never more, if the predicted saving does not cover the cost,
    - at most 1 + h times as much, if training goes on as predicted, and some
      twice as much, if freezes keep coming,
    - at most 1 + 1 / h times as much, if it stops at the worst moment, right
      after the rebuild.

    The wait also collects freezes that come one by one into one rebuild.

    Args:
        cost: Float, seconds that a rebuild takes.
        saving: Float, seconds a step that it will save.
        remaining: Float, steps that remain, `inf` if unknown.
        lost: Float, seconds that a rebuild at the first of these freezes
            would have saved so far.
        lost_since_last: Float, the part of `lost` since the last of them.

    Returns:
        Boolean.
    """
    if saving <= 0 or saving * remaining <= cost:
        return False
    return lost_since_last >= HESITATION * cost or lost >= cost


class Work:
    """Counts the operations of a step that freezing does away with.

    In products of matrices: a step multiplies each matrix three times with a
    batch, forward, backward for the gradient of its input and backward for
    its own gradient, and then updates it. Freezing a component saves its own
    gradient and its update; once the followers above it are frozen as well,
    the backward pass ends there and saves the gradient of its input too.

    Args:
        components: List of `Component`.
        followers: List of `Followers`, those that become structural too.
        matrices: Integer, parameters in all matrices of the model.
        parameters: Integer, all trainable parameters.
    """

    # An optimizer reads and writes a few arrays for each parameter. That is
    # little beside a product with a batch of a thousand tokens, but slow.
    UPDATE = 0.3

    def __init__(self, components, followers, matrices, parameters):
        self._sizes = np.array([c.size for c in components])
        self._followers = followers
        self._total = 3 * matrices + self.UPDATE * parameters

    def share(self, frozen):
        """The share of a step's work that is not done any more.

        Args:
            frozen: Boolean array of shape `(n,)`, which components are
                structurally frozen.
        """
        saved = (1 + self.UPDATE) * self._sizes[frozen].sum()
        is_truncated = np.zeros_like(frozen)
        for group in self._followers:
            if group.are_frozen(frozen):
                saved += self.UPDATE * group.size
                is_truncated[list(group.components)] = True
        return (saved + self._sizes[is_truncated].sum()) / self._total


class SavingEstimate:
    """Seconds a step that a rebuilt train step saves.

    How much of a step's time its matrices are depends on everything else in
    it, so what was counted is corrected by what earlier rebuilds saved.
    """

    def __init__(self):
        # Attention scores, norms and embeddings take time too.
        self._correction = 0.5

    def seconds(self, share, step_seconds):
        """What doing away with a share of the work of a step saves."""
        return self._correction * share * step_seconds

    def observe(self, share, before, after):
        """Learns from a rebuild: seconds a step before and after."""
        counted = share * before
        if counted > 0:
            observed = min(max((before - after) / counted, 0.0), 2.0)
            self._correction = (self._correction + observed) / 2


class Recompile:
    """Keeps the time and says when to rebuild the train step.

    Args:
        mode: `"always"`, `"never"`, `"auto"` or an integer, the number of
            newly frozen components at which to rebuild.
        total_steps: Integer, the planned steps, or None.
        rebuild_is_free: Boolean, whether nothing is compiled.
        max_rebuilds: Integer or infinity, how many there may be.
    """

    def __init__(self, mode, total_steps, rebuild_is_free, max_rebuilds):
        self.mode = mode
        self.rebuilds_left = max_rebuilds
        self.compilations = []
        self._estimate = SavingEstimate()
        self.total_steps = total_steps
        self._rebuild_is_free = rebuild_is_free
        # What the train step does not do any more: components, and the share
        # of its work; and the share that the last rebuild did away with.
        self._frozen = 0
        self._share = 0.0
        self._newest_share = 0.0
        # What is frozen logically only, and the time that it has taken: in
        # all, and when the last of it had just been seen.
        self._newly_frozen = 0
        self._lost = 0.0
        self._lost_at_last = 0.0
        self._saved = {"estimated": 0.0, "measured": 0.0}
        self._step_seconds = []

    def compiled(self, step, seconds):
        """Tells how long the first call of a train function took."""
        self.compilations.append(
            {
                "step": step,
                "seconds": seconds,
                "frozen": self._frozen,
                "step_seconds_before": self.step_seconds,
                "step_seconds_after": None,
            }
        )
        self._step_seconds = []

    def ran(self, steps, seconds, share):
        """Tells how long some steps took.

        Args:
            steps: Integer.
            seconds: Float.
            share: Float, of a step's work, which they did for nothing: for
                what is frozen, but only logically.
        """
        self._step_seconds.append(seconds / steps)
        self._lost += steps * self._estimate.seconds(share, self.step_seconds)
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
                self._newest_share,
                last["step_seconds_before"],
                self.step_seconds,
            )
        full = self.compilations[0]["step_seconds_after"]
        if full is None:
            return
        self._saved["measured"] += (full - self.step_seconds) * steps
        self._saved["estimated"] += steps * self._estimate.seconds(
            self._share, full
        )

    @property
    def step_seconds(self):
        """Median seconds a step since the last rebuild, or None."""
        if not self._step_seconds:
            return None
        return sorted(self._step_seconds)[len(self._step_seconds) // 2]

    def is_due(self, step, newly_frozen, share):
        """Whether to rebuild now.

        Args:
            step: Integer, the last step taken.
            newly_frozen: Integer, components that are frozen only logically.
            share: Float, of a step's work, that is done for them.
        """
        if newly_frozen > self._newly_frozen:
            self._newly_frozen = newly_frozen
            self._lost_at_last = self._lost
        if not newly_frozen or self.mode == "never" or not self.rebuilds_left:
            return False
        if self.mode == "always" or self._rebuild_is_free:
            return True
        if self.mode != "auto":
            return newly_frozen >= self.mode
        if self.step_seconds is None:
            return False
        total = float("inf") if self.total_steps is None else self.total_steps
        return is_worth_it(
            cost=self.compilations[-1]["seconds"],
            saving=self._estimate.seconds(share, self.step_seconds),
            remaining=total - step,
            lost=self._lost,
            lost_since_last=self._lost - self._lost_at_last,
        )

    def rebuilt(self, newly_frozen, share):
        """Tells that so much is structurally frozen now.

        Where nothing was compiled yet it is no rebuild: what is saved is
        counted from there.
        """
        self._frozen += newly_frozen
        if self.compilations:
            self.rebuilds_left -= 1
            self._share += share
            self._newest_share = share
        self._newly_frozen = 0
        self._lost = self._lost_at_last = 0.0

    def timing(self):
        """What `FreezeReport` shows; savings are without the rebuilds."""
        return {
            "compilations": [dict(c) for c in self.compilations],
            "seconds_saved_estimated": self._saved["estimated"],
            "seconds_saved_measured": self._saved["measured"],
        }


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
