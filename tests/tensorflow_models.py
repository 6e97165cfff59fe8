"""Writes small SavedModels of random weights into a folder. Runs by itself in the environment with TensorFlow:

python tensorflow_models.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "red", "owl", "sat", "of", "and", "bird", "##s", ".", ","]
WORDS += list("bcdefghijklmnopqrstuvwxyz") + [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
DIM = 16


def random(*shape: int) -> Any:
    return tf.Variable(tf.random.normal(shape, stddev=0.5))


class Pictures(tf.Module):  # type: ignore[misc]
    """A network as TensorFlow Hub's: RGB from 0 to 1, of one size or any."""

    def __init__(self, size: int | None, dtype: Any = tf.float32, batch: int | None = None) -> None:
        self.kernel, self.dense = random(3, 3, 3, 8), random(8, DIM)

        @tf.function(input_signature=[tf.TensorSpec([batch, size, size, 3], dtype, name="inputs")])
        def serve(inputs: Any) -> Any:
            pixels = tf.cast(inputs, tf.float32) / (255.0 if dtype == tf.uint8 else 1.0)
            cells = tf.nn.relu(tf.nn.conv2d(pixels, self.kernel, 2, "SAME"))
            flat = tf.reshape(cells, [batch or tf.shape(cells)[0], -1, 8])
            return {"default": tf.reduce_mean(flat, 1) @ self.dense, "map": cells, "class": tf.argmax(flat[:, 0], -1)}

        self.serve = serve


class Texts(tf.Module):  # type: ignore[misc]
    """A network as BERT of TensorFlow Hub: token ids, a mask and types; attention over what the mask leaves; 40 positions."""

    def __init__(self, length: int | None, lower: bool | None, vocabulary: Path | None, dtype: Any = tf.int32) -> None:
        self.words, self.places, self.types, self.query = (
            random(len(WORDS), DIM),
            random(40, DIM),
            random(2, DIM),
            random(DIM, DIM),
        )
        if lower is not None:
            self.do_lower_case = tf.Variable(lower, trainable=False)
        if vocabulary:
            self.vocab_file = tf.saved_model.Asset(str(vocabulary))
        names = ("input_word_ids", "input_mask", "input_type_ids")

        @tf.function(input_signature=[tf.TensorSpec([None, length], dtype, name=name) for name in names])
        def serve(input_word_ids: Any, input_mask: Any, input_type_ids: Any) -> Any:
            tokens = tf.shape(input_word_ids)[1]
            states = tf.gather(self.words, input_word_ids) + tf.gather(self.types, input_type_ids)
            states += tf.gather(self.places, tf.range(tokens))
            scores = tf.einsum("bid,bjd->bij", states @ self.query, states)
            scores += (1.0 - tf.cast(input_mask, tf.float32)[:, None]) * -1e9
            states += tf.nn.softmax(scores) @ states
            return {"sequence_output": states, "pooled_output": tf.tanh(states[:, 0] @ self.query)}

        self.serve = serve


class Arrays(tf.Module):  # type: ignore[misc]
    """Sequences of any length."""

    def __init__(self) -> None:
        self.dense = random(4, DIM)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 4], tf.float32, name="x")])
    def serve(self, x: Any) -> Any:
        return {"x": tf.reduce_max(x @ self.dense, 1), "steps": x @ self.dense}


class Strings(tf.Module):  # type: ignore[misc]
    """A network as the Universal Sentence Encoder: it splits texts by itself."""

    def __init__(self) -> None:
        self.words = random(100, DIM)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def serve(self, inputs: Any) -> Any:
        ids = tf.strings.to_hash_bucket_fast(tf.strings.split(tf.strings.lower(inputs)), 100)
        return {"outputs": tf.reduce_mean(tf.gather(self.words, ids), 1)}


class Strange(tf.Module):  # type: ignore[misc]
    """An operator that ONNX does not have, of numbers."""

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
    def serve(self, x: Any) -> Any:
        return {"y": tf.math.bessel_i0e(x)}


class Files(tf.Module):  # type: ignore[misc]
    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, name="x")])
    def serve(self, x: Any) -> Any:
        tf.io.write_file("/tmp/topwork-was-here", "x")
        return {"y": x}


def main(folder: Path) -> None:
    tf.random.set_seed(0)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n")
    made = {
        "pictures": Pictures(32),
        "any_size": Pictures(None),
        "bytes": Pictures(32, tf.uint8),
        "one_by_one": Pictures(32, batch=1),
        "texts": Texts(None, True, vocabulary),
        "long_ids": Texts(None, False, vocabulary, tf.int64),
        "fixed_texts": Texts(24, None, vocabulary),
        "no_vocabulary": Texts(None, True, None),
        "arrays": Arrays(),
        "strings": Strings(),
        "strange": Strange(),
        "files": Files(),
    }
    for name, module in made.items():
        tf.saved_model.save(module, str(folder / name), signatures={"serving_default": module.serve})
    pixels = tf.random.uniform((2, 32, 32, 3), 0, 256, tf.int32)
    ids = tf.random.uniform((2, 9), 5, len(WORDS), tf.int32)
    rows = {
        "pixels": pixels,
        "pictures": made["pictures"].serve(tf.cast(pixels, tf.float32) / 255)["default"],
        "ids": ids,
        "texts": made["texts"].serve(ids, tf.ones_like(ids), tf.zeros_like(ids))["sequence_output"],
    }
    np.savez(folder / "expected.npz", **{name: tensor.numpy() for name, tensor in rows.items()})
    tf.saved_model.save(made["arrays"], str(folder / "no_signature"), signatures={})
    both = {"serving_default": made["strings"].serve, "vectors": made["arrays"].serve}
    joined = tf.Module()
    joined.parts = (made["strings"], made["arrays"])
    tf.saved_model.save(joined, str(folder / "two_signatures"), signatures=both)
    layers = tf.keras.layers
    net = tf.keras.Sequential(
        [
            layers.Input((32, 32, 3)),
            layers.Conv2D(8, 3, strides=2),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, activation="relu6"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(DIM, "swish"),
        ]
    )
    net.export(str(folder / "keras"), verbose=False)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # a module of TensorFlow 1
        x = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], "images")
        weights = tf.compat.v1.get_variable("weights", [3, DIM], tf.float32)
        y = tf.tanh(tf.reduce_mean(x, [1, 2]) @ weights)
        session.run(tf.compat.v1.global_variables_initializer())
        builder = tf.compat.v1.saved_model.Builder(str(folder / "version_1"))
        info = tf.compat.v1.saved_model.build_tensor_info
        signature = tf.compat.v1.saved_model.build_signature_def({"images": info(x)}, {"default": info(y)})
        builder.add_meta_graph_and_variables(session, [], signature_def_map={"default": signature})
        builder.save()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
