"""Trains a language model with GradES on all devices that JAX finds.

    python examples/finetune_on_several_devices.py --devices 4
    python examples/finetune_on_several_devices.py --devices 4 --parallel model

`--devices` makes so many out of one CPU, to try it; without it the GPUs or
TPUs are taken. `--parallel data` has all of the model on each device, and of
each batch a part; `--parallel model` has a part of each matrix on each, as
the layout map of KerasHub says. Nothing is changed for GradES: what is frozen
structurally is not sent between the devices any more.

The model is a small Llama with random weights that reads the sports news of
BBC News as bytes. `--preset` takes one of KerasHub, of the `--family`.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
import quiet  # noqa: F401

# isort: split

import time

import jax
import keras
import keras_hub
import runs
from data import read_bbc_news
from data import topics
from finetune_causal_lm_lora import bytes_of
from finetune_causal_lm_lora import compile_model
from finetune_causal_lm_lora import from_preset
from finetune_causal_lm_lora import small_llama

import keras_grades

TOPIC = "sports"
LEARNING_RATE = 1e-3


def main(argv=None):
    args = parse_arguments(argv)
    if args.devices:
        jax.config.update("jax_num_cpu_devices", args.devices)
    # Before the model: its variables are made where they belong.
    keras.distribution.set_distribution(distribution(args))
    keras.utils.set_random_seed(args.seed)
    model, prepare = build(args)
    print_layout(model)

    articles = topics(*read_bbc_news())[TOPIC]
    # The devices share a batch evenly: the last one may not be smaller.
    data = runs.shuffled(prepare(articles, args), args, drop_remainder=True)
    compile_model(
        model,
        keras.optimizers.schedules.CosineDecay(
            LEARNING_RATE, decay_steps=args.epochs * len(data)
        ),
    )
    grades = runs.grades(args)
    start = time.perf_counter()
    history = model.fit(
        data, epochs=args.epochs, callbacks=[grades], verbose=2
    ).history
    seconds = time.perf_counter() - start
    print(grades.report.summary())
    runs.save(grades.report, args.output)
    print(
        f"{seconds:.1f} s on {jax.device_count()} devices, loss a token: "
        f"{history['loss'][-1]:.4f}"
    )


def parse_arguments(argv):
    parser = runs.argument_parser(
        "Train a language model on several devices with GradES.",
        "several_devices",
    )
    add = parser.add_argument
    add("--devices", type=int, help="to make of the CPU")
    add("--parallel", choices=["data", "model"], default="data")
    add(
        "--model-devices",
        type=int,
        default=2,
        help="that share a matrix, with --parallel model",
    )
    add("--family", default="Llama", help="of models in KerasHub")
    add("--sequence-length", type=int, default=128, help="in tokens")
    add("--examples", type=int, default=1600, help="sequences to train on")
    args = parser.parse_args(argv)
    backbone = getattr(keras_hub.models, f"{args.family}Backbone")
    if args.parallel == "model" and not hasattr(backbone, "get_layout_map"):
        parser.error(
            f"KerasHub has no layout map for {args.family}. Use --parallel data"
        )
    return args


def distribution(args):
    """Where variables and batches are."""
    devices = keras.distribution.list_devices()
    if args.parallel == "data":
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh(
        (len(devices) // args.model_devices, args.model_devices),
        ("batch", "model"),
        devices,
    )
    backbone = getattr(keras_hub.models, f"{args.family}Backbone")
    return keras.distribution.ModelParallel(
        layout_map=backbone.get_layout_map(mesh), batch_dim_name="batch"
    )


def build(args):
    """The model, and what makes its input of texts."""
    if args.preset is None:
        return small_llama(), bytes_of
    task = getattr(keras_hub.models, f"{args.family}CausalLM")
    return from_preset(args.preset, task)


def print_layout(model):
    """How the matrices of the first block are spread over the mesh."""
    components = keras_grades.find_components(model)
    for component in components:
        if component.block == components[0].block:
            kernel = component.variables[0]
            axes = tuple(kernel.value.sharding.spec)
            print(f"{component.name:50} {kernel.shape!s:15} {axes}")


if __name__ == "__main__":
    main()
