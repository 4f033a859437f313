"""Adapts a causal language model to sports news by LoRA, with GradES.

    python examples/finetune_causal_lm_lora.py
    python examples/finetune_causal_lm_lora.py --preset <name or folder>

The articles are those of BBC News, out of an installed package. Without a
preset the model is a small Llama that reads bytes. It has random weights, in
which LoRA alone would find little to adapt, so it is first trained for a
while, as a whole and without GradES, on the articles of the other topics.

`--preset` takes any causal language model of KerasHub, by its name or from a
folder, also in the format of Hugging Face; it is fine-tuned as it is. With
`--quantize int8` the frozen weights are quantized first (QLoRA).
"""

import quiet  # noqa: F401

# isort: split

import time

import keras
import keras_hub
import numpy as np
import runs
from data import read_bbc_news
from data import topics

TOPIC = "sports"
LEARNING_RATE = 1e-3


def main(argv=None):
    args = parse_arguments(argv)
    keras.utils.set_random_seed(args.seed)
    articles = topics(*read_bbc_news())
    sports = articles.pop(TOPIC)
    others = [text for texts in articles.values() for text in texts]
    if args.preset is None:
        model, prepare = small_llama(), bytes_of
        pretrain(model, prepare(others, args), args)
    else:
        model, prepare = from_preset(args.preset)
    held_out = len(sports) // 5
    test = prepare(sports[:held_out], args)
    train = prepare(sports[held_out:], args)

    if args.quantize:
        model.backbone.quantize(args.quantize)
    model.backbone.enable_lora(args.rank)
    data = runs.shuffled(train, args)
    compile_model(
        model,
        keras.optimizers.schedules.CosineDecay(
            LEARNING_RATE, decay_steps=args.epochs * len(data)
        ),
    )
    before = loss_a_token(model, test, args)
    grades = runs.grades(args)
    start = time.perf_counter()
    model.fit(
        data,
        epochs=args.epochs,
        callbacks=[grades],
        verbose=2,
    )
    seconds = time.perf_counter() - start
    print(grades.report.summary())
    runs.save(grades.report, args.output)
    after = loss_a_token(model, test, args)
    print(
        f"{seconds:.1f} s, loss a token on held-out articles: "
        f"{before:.4f} before, {after:.4f} after"
    )


def parse_arguments(argv):
    parser = runs.argument_parser(
        "Adapt a causal language model to sports news by LoRA, with GradES.",
        "causal_lm_lora",
    )
    add = parser.add_argument
    add("--rank", type=int, default=8, help="of LoRA")
    add("--quantize", choices=["int8", "int4"], help="the frozen weights")
    add("--sequence-length", type=int, default=128, help="in tokens")
    add(
        "--examples",
        type=int,
        default=1600,
        help="sequences to train on, in each stage",
    )
    add(
        "--pretrain-epochs",
        type=int,
        default=3,
        help="on other topics, without a preset",
    )
    return parser.parse_args(argv)


def small_llama():
    """One with a token for every byte, and 0 for the end."""
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=256,
        num_layers=4,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=128,
        intermediate_dim=384,
    )
    return keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)


def bytes_of(texts, args):
    """Sequences of bytes as input, and the byte that follows on each."""
    length = args.sequence_length
    stream = np.frombuffer("\0".join(texts).encode(), "uint8")
    n = min(args.examples, (len(stream) - 1) // length)
    token_ids, targets = (
        stream[i : i + n * length].reshape(n, length).astype("int32")
        for i in (0, 1)
    )
    mask = np.ones_like(token_ids)
    return {"token_ids": token_ids, "padding_mask": mask}, targets


def from_preset(preset, task=keras_hub.models.CausalLM):
    """The model, and what makes its input of texts."""
    model = task.from_preset(preset)
    preprocessor = model.preprocessor
    model.preprocessor = None

    def prepare(texts, args):
        return preprocessor(
            texts[: args.examples], sequence_length=args.sequence_length
        )

    return model, prepare


def pretrain(model, data, args):
    """Trains all of the model, so that LoRA has something to adapt."""
    compile_model(model, 3 * LEARNING_RATE)
    model.fit(runs.shuffled(data, args), epochs=args.pretrain_epochs, verbose=2)


def loss_a_token(model, data, args):
    results = model.evaluate(
        runs.shuffled(data, args), verbose=0, return_dict=True
    )
    return results["loss"]


def compile_model(model, learning_rate):
    model.compile(
        keras.optimizers.AdamW(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


if __name__ == "__main__":
    main()
