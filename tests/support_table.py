"""The table of support in the README, written from `configurations.py`.

    python tests/support_table.py

puts it there. `test_support_table.py` fails when it is not up to date.
"""

import pathlib

import configurations

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- support table: begin -->\n", "<!-- support table: end -->\n"
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}


def table():
    """One row for what is alike on the backends, in each group."""
    lines = [
        f"| | {' | '.join(BACKENDS.values())} |",
        f"| --- |{' --- |' * len(BACKENDS)}",
    ]
    for group, members in configurations.GROUPS.items():
        rows = {}
        for configuration in members:
            why_not = tuple(
                configuration.unsupported.get(backend, "yes")
                for backend in BACKENDS
            )
            rows.setdefault(why_not, []).append(configuration.name)
        for cells, names in rows.items():
            lines.append(
                f"| {group}: {'; '.join(names)} | {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


def replaced(text):
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    README.write_text(replaced(README.read_text(encoding="utf-8")), "utf-8")
