"""Parts of the README that are written from code, between two comments."""

import pathlib

PATH = pathlib.Path(__file__).parents[1] / "README.md"


def replaced(name, content):
    """The text of the README with new content between the comments."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, rest = PATH.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    return before + begin + content + end + after


def write(name, content):
    PATH.write_text(replaced(name, content), encoding="utf-8")
