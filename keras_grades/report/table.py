"""`FreezeReport.summary()`: tables for a terminal. Needs rich."""

from rich import box
from rich.console import Console
from rich.table import Table

from keras_grades.messages import is_in_terminal
from keras_grades.report.grid import to_grid
from keras_grades.report.totals import percent
from keras_grades.report.totals import totals
from keras_grades.report.work import parameters

NOT_FROZEN = "–"


def render(report):
    """The tables and the totals as one string."""
    # In a notebook, too, this is to be text.
    console = Console(
        force_jupyter=False,
        force_terminal=is_in_terminal(),
        highlight=False,
        markup=False,
    )
    tables = []
    for tower in to_grid(report.components):
        tables += tower_tables(console, tower)
    tables.append(totals_table(report))
    compilations = (report.timing or {}).get("compilations", [])
    if any(c["seconds"] for c in compilations):
        tables.append(compilations_table(compilations))
    with console.capture() as capture:
        for table in tables:
            console.print(table)
            console.line()
    lines = capture.get().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


def tower_tables(console, tower):
    """Blocks by roles: one table, or several that fit the console."""
    table = tower_table(tower, label_width=2 * console.width // 5)
    unlimited = console.options.update(max_width=10_000)
    width = console.measure(table, options=unlimited).maximum
    if width <= console.width or len(tower.roles) == 1:
        return [table]
    attention = [role for role in tower.roles if not role.startswith("ffn")]
    at = len(attention) % len(tower.roles) or len(tower.roles) // 2
    parts = tower.roles[:at], tower.roles[at:]
    return [
        table
        for roles in parts
        for table in tower_tables(console, tower._replace(roles=roles))
    ]


def tower_table(tower, label_width):
    """Blocks by roles, and the parameters of these roles that are frozen."""
    table = _table(tower.title)
    table.add_column(
        "block", overflow="fold", vertical="bottom", max_width=label_width
    )
    for role in tower.roles:
        table.add_column(role.replace("_", "\n", 1), **_NUMBERS)
    table.add_column("parameters\nfrozen", **_NUMBERS)
    for row in tower.rows:
        cells = [row.cells.get(role) for role in tower.roles]
        block = [c for c in row.block if c.role in tower.roles]
        if block or any(cells):
            label = row.label if row.block else f"  {row.label}"
            table.add_row(label, *map(_cell, cells), _frozen_share(block))
    return table


def totals_table(report):
    """What stands below the other tables: label and value."""
    table = Table.grid(padding=(0, 2))
    for label, value in totals(report):
        table.add_row(label, value)
    return table


def compilations_table(compilations):
    """What each compilation of the train step cost and gained."""
    table = _table("train step compiled")
    for header in ("at step", "frozen", "seconds", "s/step before", "after"):
        table.add_column(header, **_NUMBERS)
    for c in compilations:
        table.add_row(
            f"{c['step']:,}",
            f"{c['frozen']:,}",
            f"{c['seconds']:.1f}",
            _seconds(c["step_seconds_before"]),
            _seconds(c["step_seconds_after"]),
        )
    return table


_NUMBERS = {"justify": "right", "no_wrap": True, "vertical": "bottom"}


def _table(title):
    return Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )


def _cell(component):
    if component is None:
        return ""
    if component.frozen_at is None:
        return NOT_FROZEN
    return str(component.frozen_at)


def _frozen_share(block):
    if not block:
        return ""
    frozen = parameters([c for c in block if c.frozen_at is not None])
    return f"{_short(frozen)} ({percent(frozen, parameters(block))})"


def _short(number):
    """`1234567` -> `"1.23M"`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # What is rounded up to 1000 has the next unit.
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _seconds(value):
    return "" if value is None else f"{value:.3g}"
