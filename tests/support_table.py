"""The table of what GradES works with, written from `configurations.py`.

    python tests/support_table.py

puts it there. `test_readme_tables.py` fails when it is not up to date.
"""

import configurations
import pages

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


if __name__ == "__main__":
    pages.write(pages.SUPPORT, "support table", table())
