"""Our `weight_change` beside the package of the paper's authors, on PyTorch.

    python examples/benchmarks/authors.py

A small Llama with random weights in the format of Hugging Face, the same
batches, SGD with a learning rate that decays, and the same tau and alpha: the
steps at which the matrices freeze, the time of a step beside a plain one, and
the memory that is kept. The authors' package and transformers are installed
into an environment of their own, in the folder `--output`.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import json
import math
import pathlib
import subprocess
import venv

import common
import keras
import keras_hub
import memory
import numpy as np
from task_list import VOCABULARY
from task_list import load_letters

import keras_grades

PACKAGES = ("torch==2.13.0", "transformers", "grades==1.0.6")
CONFIG = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
BATCH = 8
# So small that rounding, which differs, does not grow into other paths.
LEARNING_RATE = 0.05
ALPHA = 0.3
# Which of ours is which of theirs, in a layer.
ROLES = {
    "query": "attn_q_proj",
    "key": "attn_k_proj",
    "value": "attn_v_proj",
    "attention_output": "attn_o_proj",
    "ffn_gate": "mlp_gate_proj",
    "ffn_up": "mlp_up_proj",
    "ffn_down": "mlp_down_proj",
}


def main(argv=None):
    parser = common.argument_parser(__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args(argv)
    python = environment(args.output / "authors_environment")
    folder = (args.output / "authors_llama").resolve()
    run(python, do="make", folder=str(folder), config=CONFIG)
    (x, y), *_ = load_letters(args.steps * BATCH)
    x = x.reshape(args.steps, BATCH, -1).astype("int64")
    y = y.reshape(x.shape).astype("int64")
    np.savez(folder / "data.npz", x=x, y=y)
    # Below this, a half of the matrices are at two thirds of the run.
    probe = ours(folder, x, y, tau=1e-30)[0]
    tau = float(np.median(probe.trace["statistic"][2 * args.steps // 3]))
    grades, seconds, kept = ours(folder, x, y, tau)
    theirs = run(
        python,
        do="train",
        folder=str(folder),
        steps=args.steps,
        learning_rate=LEARNING_RATE,
        tau=tau,
        alpha=ALPHA,
    )
    steps = paired(grades.components, theirs["frozen_at"])
    same = sum(a == b for a, b in steps)
    apart = max(abs((a or args.steps) - (b or args.steps)) for a, b in steps)
    rows = [
        row("keras_grades", seconds, kept, [a for a, _ in steps]),
        row(
            "grades (the authors')",
            np.array(theirs["seconds"]),
            theirs["bytes"],
            [b for _, b in steps],
        ),
    ]
    common.report("authors", rows, args.output)
    print(
        f"tau={tau:.4g}, alpha={ALPHA}: {same} of {len(steps)} matrices froze "
        f"at the same step, or neither; the others at most {apart} steps apart."
    )


def environment(folder):
    """The Python of an environment with the authors' package."""
    python = folder.absolute() / "bin" / "python"
    if not (folder / "done").exists():
        print(f"Installing {', '.join(PACKAGES)} to {folder}.", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True
        )
        (folder / "done").touch()
    return python


def run(python, **task):
    """Runs the other side; what it returns."""
    side = pathlib.Path(__file__).with_name("authors_side.py")
    done = subprocess.run(
        [python, side, json.dumps(task)],
        check=True,
        stdout=subprocess.PIPE,
        # Not this environment's packages.
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def ours(folder, x, y, tau):
    """The callback, seconds of each step (plain, with it), and bytes."""
    grades = keras_grades.GradES(
        tau=tau,
        alpha=ALPHA,
        monitor="weight_change",
        norm="l1",
        # As the authors do: at once, and all of it.
        recompile="always",
        verbose=0,
    )
    steps = len(x)
    models = {"plain": llama(folder, steps), "grades": llama(folder, steps)}
    turns = common.Turns(models)
    timers = {name: common.InTurns(name, turns, steps) for name in models}
    callbacks = {"plain": [], "grades": [grades]}

    def fit(name):
        models[name].fit(
            (
                ({"token_ids": a, "padding_mask": np.ones_like(a)}, b)
                for a, b in zip(x, y)
            ),
            steps_per_epoch=steps,
            verbose=0,
            callbacks=[timers[name], *callbacks[name]],
        )

    common.run_in_turns(fit, models, turns)
    n = min(len(t.seconds) for t in timers.values())
    seconds = np.array([timers[name].seconds[:n] for name in models]).T
    return grades, seconds, bytes_kept(folder, steps)


def llama(folder, steps):
    backbone = keras_hub.models.LlamaBackbone.from_preset(str(folder))
    logits = backbone.token_embedding(backbone.output, reverse=True)
    model = keras.Model(backbone.inputs, logits)
    rate = keras.optimizers.schedules.PolynomialDecay(LEARNING_RATE, steps, 0.0)
    model.compile(
        keras.optimizers.SGD(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def bytes_kept(folder, steps):
    """Of the state of GradES."""
    model = llama(folder, steps)
    components = keras_grades.find_components(model)
    return memory.added(model, components, "weight_change")


def paired(components, theirs):
    """For each matrix, when it froze here and there."""
    blocks = list(dict.fromkeys(c.block for c in components))
    return [
        (
            c.frozen_at,
            theirs[f"layer_{blocks.index(c.block):02d}_{ROLES[c.role]}"],
        )
        for c in components
    ]


def row(name, seconds, kept, frozen_at):
    # Until they begin to freeze: from then on steps are shorter.
    first = min((s for s in frozen_at if s), default=len(seconds))
    unfrozen = seconds[common.WARM_UP : first]
    ratio = common.ratio(unfrozen[:, 1], unfrozen[:, 0])
    return {
        "package": name,
        "frozen": sum(s is not None for s in frozen_at),
        "of": len(frozen_at),
        "first at": first,
        "median at": float(np.median([s or math.inf for s in frozen_at])),
        "last at": max(s or math.inf for s in frozen_at),
        "plain step s": float(np.median(unfrozen[:, 0])),
        "of a plain step": ratio["median"],
        "low": ratio["low"],
        "high": ratio["high"],
        "bytes kept between steps": kept,
    }


if __name__ == "__main__":
    main()
