"""When to make freezes structural: a rebuilt step is faster, but not free."""

import numbers

# Until it is known what a rebuild costs and saves.
STEPS_BETWEEN_REBUILDS = 16


class Recompile:
    """Counts what is frozen logically and says when to rebuild the step.

    Args:
        mode: `"always"`, `"never"`, `"auto"` or an integer, the number of
            newly frozen components at which to rebuild at the latest.
    """

    def __init__(self, mode):
        check_mode(mode)
        self.mode = mode
        self._last_rebuild = None

    def is_due(self, step, pending):
        """Whether to rebuild now, with so many newly frozen components."""
        if not pending or self.mode == "never":
            return False
        if self.mode == "always":
            return True
        if self.mode == "auto":
            return (
                self._last_rebuild is None
                or step - self._last_rebuild >= STEPS_BETWEEN_REBUILDS
            )
        return pending >= self.mode

    def rebuilt(self, step):
        self._last_rebuild = step


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
