"""The side of `authors.py` that runs the authors' package, without Keras.

It is run in an environment of its own, which has torch, transformers and
grades, not in that of keras_grades.
"""

import json
import pathlib
import sys
import time
import types

import numpy as np
import torch
import transformers
from grades import GradEarlyStoppingCallback
from grades import GradEarlyStoppingConfig


def make(folder, config):
    """Writes a Llama with random weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**config, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def train(folder, steps, learning_rate, **arguments):
    """Trains two models in turns, one of them with the authors' callback.

    Returns:
        Dict: the step at which each component froze; `seconds`, pairs a step,
        plain and with the callback; the bytes it keeps.
    """
    plain = Run(folder, steps, learning_rate)
    config = GradEarlyStoppingConfig(**arguments)
    grades = Run(folder, steps, learning_rate, config)
    seconds, kept = [], 0
    while not grades.has_ended and grades.step < steps:
        seconds.append([plain.take_step(), grades.take_step()])
        kept = max(kept, grades.bytes_kept())
    return {
        "frozen_at": {
            name: stats.frozen_at_step
            for name, stats in grades.callback.component_stats.items()
        },
        "seconds": seconds,
        "bytes": kept,
    }


class Run:
    """A model in training, one step at a time."""

    def __init__(self, folder, steps, learning_rate, config=None):
        self.model = transformers.LlamaForCausalLM.from_pretrained(folder)
        self.model.train()
        self.rates = learning_rate * (1 - np.arange(steps) / steps)
        self.optimizer = torch.optim.SGD(self.model.parameters())
        data = np.load(pathlib.Path(folder) / "data.npz")
        self.batches = list(zip(data["x"], data["y"]))
        self.step = 0
        self.callback = None
        if config is not None:
            self.callback = GradEarlyStoppingCallback(config)
            # What transformers' `Trainer` tells its callbacks.
            self.arguments = types.SimpleNamespace(output_dir=str(folder))
            self.state = transformers.TrainerState(max_steps=steps)
            self.control = transformers.TrainerControl()
            self.callback.on_train_begin(
                self.arguments, self.state, self.control, model=self.model
            )

    @property
    def has_ended(self):
        return self.control.should_training_stop

    def take_step(self):
        """Returns the seconds that it took."""
        x, y = (torch.from_numpy(a) for a in self.batches[self.step])
        began = time.perf_counter()
        self.optimizer.param_groups[0]["lr"] = self.rates[self.step]
        self.optimizer.zero_grad()
        logits = self.model(x).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), y.ravel()
        )
        loss.backward()
        self.optimizer.step()
        self.step += 1
        if self.callback is not None:
            self.state.global_step = self.step
            self.callback.on_step_end(
                self.arguments, self.state, self.control, model=self.model
            )
        loss.item()
        return time.perf_counter() - began

    def bytes_kept(self):
        caches = [
            s.weight_cache for s in self.callback.component_stats.values()
        ]
        return sum(
            c.numel() * c.element_size() for c in caches if c is not None
        )


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    result = {"make": make, "train": train}[task.pop("do")](**task)
    print(json.dumps(result))
