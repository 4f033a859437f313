"""What a run came to, in a few lines of text."""

from keras_grades.report.work import parameters


def totals(report):
    """The totals as pairs of strings."""
    everything, frozen = report.components, report.frozen
    lines = [
        ("components frozen", _of(len(frozen), len(everything))),
        ("parameters frozen", _of(parameters(frozen), parameters(everything))),
        ("weight-gradient work saved", _saved(report)),
        ("stopped", _stopped(report)),
    ]
    timing = report.timing or {}
    for name in ("estimated", "measured"):
        seconds = timing.get(f"seconds_saved_{name}")
        if seconds is not None:
            lines.append((f"time saved, {name}", f"{seconds:,.1f} s"))
    return lines


def headline(report):
    """The same in one line."""
    frozen, everything = len(report.frozen), len(report.components)
    return f"{frozen:,} of {everything:,} components frozen, {ending(report)}"


def ending(report):
    """Where training was stopped, or how long it ran."""
    of = f" of {report.total_steps:,}" if report.total_steps else ""
    if report.stopped_step is None:
        return f"ran {report.steps:,}{of} steps"
    return f"stopped at step {report.stopped_step:,}{of}"


def percent(part, whole):
    """Rounded down, so that 100% means all."""
    return f"{100 * part // whole if whole else 0}%"


def _saved(report):
    text = f"up to {report.work_saved:.0%} over the steps run"
    if report.total_steps and report.total_steps > report.steps:
        text += f", {report.work_saved_of_schedule:.0%} over the schedule"
    return text


def _stopped(report):
    if report.stopped_step is None:
        return f"no ({ending(report)})"
    return ending(report).removeprefix("stopped ")


def _of(part, whole):
    return f"{part:,} of {whole:,} ({percent(part, whole)})"
