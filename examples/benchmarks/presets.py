"""`GradES()` on KerasHub models that are compiled as they come.

    python examples/benchmarks/presets.py

KerasHub compiles a task when it is made: Adam at a constant learning rate of
5e-5, or 2e-5. Nothing of that is changed here, and no argument is given.
Only the first model is pretrained; the others have random weights, which learn
little at such a rate: there GradES must not stop early. It goes on where it
was, as `tasks.py` does.
"""

import common
import keras
import keras_hub
import task_list
import task_methods as methods
from tasks import begin
from tasks import beside_plain
from tasks import warm_up

EPOCHS = (1, 3, 10)


class AsItComes(task_list.Task):
    """A task whose model is compiled already."""

    def compiled(self):
        return self.build()


def vit():
    return task_list.vit(28, patch=7, layers=4, width=64)


def gpt2():
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=task_list.VOCABULARY,
        num_layers=3,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=512,
        max_sequence_length=task_list.SEQUENCE,
    )
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)


def load_letters(examples):
    """As `GPT2CausalLM` takes them."""
    return [
        ({"token_ids": x, "padding_mask": keras.ops.ones_like(x)}, y)
        for x, y in task_list.load_letters(examples)
    ]


def as_it_comes(load, build, examples, batch_size):
    return AsItComes(load, build, examples, batch_size, 1, 0.0, "as it comes")


PRESETS = {
    "BERT (MiniLM), topics": as_it_comes(
        task_list.load_topics, common.minilm, 960, 16
    ),
    "ViT, random, MNIST": as_it_comes(task_list.load_mnist, vit, 3456, 64),
    "GPT-2, random, next letter": as_it_comes(load_letters, gpt2, 2048, 32),
}


def main(argv=None):
    parser = task_list.argument_parser(__doc__.split("\n")[0])
    add = parser.add_argument
    add("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    args = parser.parse_args(argv)
    report, seeds, store = begin("presets", args)
    warm_up()
    rows = []
    for name in args.presets:
        for epochs in EPOCHS:
            examples = 128 if args.quick else PRESETS[name].examples
            task = PRESETS[name].quick(examples, epochs)
            here = store.of(f"{name} {epochs}", task)
            rows += compare(name, task, here, seeds)
    common.report(report, rows, args.output)


def compare(name, task, store, seeds):
    """A row for each method: means over the seeds."""
    data = task.load(task.examples)
    results = {"plain": [], "auto": []}
    for seed in seeds:
        plain = store.get(
            f"plain-{seed}",
            lambda seed=seed: methods.train(task, data, seed)[2],
        )
        auto = store.get(
            f"auto-{seed}", lambda seed=seed: methods.auto(task, data, seed)
        )
        results["plain"].append(plain)
        results["auto"].append(auto)
    for method, runs in results.items():
        yield {
            "model": name,
            "epochs": task.epochs,
            "method": method,
            **beside_plain(runs, results["plain"]),
            "loss": sum(r["loss"] for r in runs) / len(runs),
            "seconds": sum(r["seconds"] for r in runs) / len(runs),
        }


if __name__ == "__main__":
    main()
