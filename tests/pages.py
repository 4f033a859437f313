"""Tables in the pages that are written from code, between two comments."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
SUPPORT = ROOT / "examples/guides/what_it_works_with.md"


def replaced(path, name, content):
    """The text of a page with new content between the comments."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    return before + begin + content + end + after


def write(path, name, content):
    path.write_text(replaced(path, name, content), encoding="utf-8")
