"""The table of arguments in the README, written from the docstring of `GradES`.

    python tests/argument_table.py

puts it there. `test_readme_tables.py` fails when it is not up to date.
"""

import inspect
import re

import pages

from keras_grades import GradES


def table():
    """One row an argument: its default, and the first sentence about it."""
    lines = ["| argument | default | meaning |", "| --- | --- | --- |"]
    for name, text in documented().items():
        text, default = text.rsplit(" Defaults to ", 1)
        meaning = re.split(r"(?<=[.)]) (?=[A-Z`])", text)[0].rstrip(".")
        lines.append(f"| `{name}` | {default.rstrip('.')} | {meaning} |")
    return "\n".join(lines) + "\n"


def documented():
    """The text about each argument, in one line."""
    doc = inspect.getdoc(GradES)
    section = doc.split("Args:\n")[1].split("\n\nAttributes:")[0]
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", section, re.M | re.S)
    return {name: " ".join(text.split()) for name, text in found}


if __name__ == "__main__":
    pages.write(pages.README, "argument table", table())
