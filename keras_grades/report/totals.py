"""What a run came to, in a few lines of text."""

from keras_grades.report.work import parameters


def totals(report):
    """The totals as pairs of strings."""
    everything, frozen = report.components, report.frozen
    lines = [
        ("components frozen", _of(len(frozen), len(everything))),
        ("parameters frozen", _of(parameters(frozen), parameters(everything))),
        ("weight gradients not needed", _saved(report)),
        ("stopped", _stopped(report)),
    ]
    if report.timing:
        lines += [
            ("saved by stopping", _by_stopping(report, report.timing)),
            ("saved by freezing", _by_freezing(report.timing)),
        ]
    return [(label, text) for label, text in lines if text]


def headline(report):
    """The same in one line."""
    frozen, everything = len(report.frozen), len(report.components)
    return f"{frozen:,} of {everything:,} components frozen, {ending(report)}"


def is_early(report):
    """Whether training was stopped before the end of its plan."""
    return report.stopped_step not in (None, report.total_steps)


def ending(report):
    """Where training was stopped, or how long it ran."""
    of = f" of {report.total_steps:,}" if report.total_steps else ""
    if not is_early(report):
        return f"ran {report.steps:,}{of} steps"
    return f"stopped at step {report.stopped_step:,}{of}"


def percent(part, whole):
    """Rounded down, so that 100% means all."""
    return f"{100 * part // whole if whole else 0}%"


def _saved(report):
    text = f"up to {report.work_saved:.0%} over the steps run"
    if report.total_steps and is_early(report):
        text += f", {report.work_saved_of_schedule:.0%} over the plan"
    return text


def _stopped(report):
    if not is_early(report):
        return f"no ({ending(report)})"
    return ending(report).removeprefix("stopped ")


def _by_stopping(report, timing):
    if not is_early(report):
        return "nothing"
    if report.total_steps is None:
        return ""
    left = report.total_steps - report.steps
    compilations = timing.get("compilations") or [{}]
    seconds = compilations[0].get("step_seconds_after")
    time = "" if seconds is None else f", some {left * seconds:,.0f} s"
    return f"{left:,} steps{time}"


def _by_freezing(timing):
    if timing.get("why_not_rebuilt"):
        return f"nothing: {timing['why_not_rebuilt']}"
    measured = timing.get("seconds_saved_measured")
    if measured is None:
        return ""
    rebuilds = sum(c["seconds"] for c in timing["compilations"][1:])
    of = f", for {rebuilds:,.1f} s of compiling" if rebuilds else ""
    return f"{measured:,.1f} s{of}"


def _of(part, whole):
    return f"{part:,} of {whole:,} ({percent(part, whole)})"
