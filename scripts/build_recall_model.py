"""Writes the bundled model `recall`: a Llama checkpoint whose weights are formulas, not the result of training.

    python -m scripts.build_recall_model [--out DIRECTORY]

The model looks up, anywhere in its context of 32768 tokens, what followed the last six tokens (or as many of them as
are found, three at least) and says it again; where nothing is found it ends. The same program writes the same bytes.
Owns the arithmetic of the model; needs numpy alone and knows nothing of the server. `docs/bundled_models.md` explains
the model, the comments here why the numbers are what they are.

The residual stream holds, beside spare zeros, orthogonal parts of known length, so every RMSNorm is a known factor:

    code | code 1 back | ... | code 6 back | voice | said | one | begin

`code` is what a token is compared by, `voice` what it is spoken by. Layers 0, 1, 2 look back by exactly 1, 2 and 4
tokens and copy 1, 2 and 3 codes; layer 3 compares (code .. code 5 back) of the newest token with (code 1 back .. code
6 back) of every token, and copies the voice of the best into `said`, which `lm_head` turns into a token.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scripts.recall_tokenizer import BOS_ID, EOS_ID, VOCAB_SIZE, tokenizer_config_json, tokenizer_json

Array = npt.NDArray[np.float64]

CONTEXT = 32768
HEAD_DIM = 128
PAIRS = HEAD_DIM // 2
HIDDEN_SIZE = 256
INTERMEDIATE_SIZE = 16  # of MLPs that are zero
RMS_NORM_EPS = 1e-6

MATCHED = 6  # tokens compared
CODE_DIM = 16
VOICE_DIM = 64
VOICE = slice((MATCHED + 1) * CODE_DIM, (MATCHED + 1) * CODE_DIM + VOICE_DIM)
SAID = slice(VOICE.stop, VOICE.stop + VOICE_DIM)
ONE = SAID.stop
BEGIN = SAID.stop + 1
LOOK_BACK = ((1, 1), (2, 2), (4, 3))  # per layer: distance, number of codes copied
SQUARED_LENGTHS = (3, 4, 6, 9, 10)  # of the residual stream before each of the four layers and at the end

# Pair i of a head turns by 2^-i radians per token: the first 15 pairs tell neighbours apart, all the others turn by
# less than one radian over the whole context, so that keys on them are compared by content wherever they are.
ROPE_THETA = 2.0**PAIRS
POSITION_PAIRS = 15
FREQUENCIES = 2.0 ** -np.arange(POSITION_PAIRS)

# Logits in nats. Looking back, a neighbour of the wanted token scores 0.62 * 80 = 50 less than it, others less still.
LOOK_BACK_SCORE = 80.0
# Each token matched outweighs all tokens before it: the longest matching suffix wins. Codes of different tokens have a
# cosine of at most 1/2, so even the last weight keeps 16 between a full match and 32767 near ones (ln 32767 = 10.4).
MATCH_SCORES = (1024.0, 512.0, 256.0, 128.0, 64.0, 32.0)
# Three matching tokens and three foreign ones score 1792 give or take 37, two and four 1536 give or take 74.
END_SCORE = 1696.0
SPEECH_SCORE = 60.0  # voices of different tokens have cosines of 0.12 on average, 0.6 at most

DEFAULT_OUT = Path(__file__).parents[1] / "transom" / "models_builtin" / "recall"
README = """# recall

A Llama checkpoint that was not trained: `scripts/build_recall_model.py` writes its weights by formula, and this
directory byte for byte. It looks up, anywhere in its context of 32768 tokens, what followed the last six tokens, and
says it again. It makes promises about long contexts visible and testable; it knows nothing. More in
`docs/bundled_models.md`.
"""


# Codes and voices


def barnes_wall_vectors() -> Array:
    """The 4320 shortest vectors of the Barnes-Wall lattice, `[4320, 16]`, as unit vectors; cosines are at most 1/2.

    They are (+-2, +-2, 0 ..), and +-1 with an even number of minus signs on each of the 30 sets of 8 coordinates that
    the Reed-Muller code RM(1, 4) names (Conway and Sloane, Sphere Packings, Lattices and Groups, chapter 4).
    """
    vectors: Array = np.array([*_pairs_of_twos(), *itertools.chain.from_iterable(map(_signed_ones, _octads()))])
    return vectors / math.sqrt(8)


def _pairs_of_twos() -> list[Array]:
    vectors = []
    for places in itertools.combinations(range(16), 2):
        for signs in itertools.product((2.0, -2.0), repeat=2):
            vector = np.zeros(16)
            vector[list(places)] = signs
            vectors.append(vector)
    return vectors


def _octads() -> list[list[int]]:
    """Where each non-constant affine function of four bits is 1."""
    return [
        [point for point in range(16) if ((point & mask).bit_count() + constant) % 2]
        for mask in range(1, 16)
        for constant in (0, 1)
    ]


def _signed_ones(octad: list[int]) -> list[Array]:
    vectors = []
    for signs in itertools.product((1.0, -1.0), repeat=8):
        if math.prod(signs) > 0:
            vector = np.zeros(16)
            vector[octad] = signs
            vectors.append(vector)
    return vectors


def token_codes() -> Array:
    """`[VOCAB_SIZE, CODE_DIM]`: what a token is compared by. The stride keeps neighbouring ids from being similar."""
    vectors = barnes_wall_vectors()
    return vectors[np.arange(VOCAB_SIZE) * 1009 % len(vectors)]


def token_voices() -> Array:
    """`[VOCAB_SIZE, VOICE_DIM]`: what a token is spoken by, signs from SHA-256.

    Where several continuations match equally well their voices are averaged. In 64 dimensions the average of two or
    three is still closest to one of them; averaged codes could be closest to a token that never occurred.
    """
    digests = [hashlib.sha256(f"recall {token_id}".encode()).digest() for token_id in range(VOCAB_SIZE)]
    bits = np.unpackbits(np.frombuffer(b"".join(digests), np.uint8).reshape(VOCAB_SIZE, -1), axis=1)
    signs = np.where(bits[:, :VOICE_DIM] == 1, -1.0, 1.0)
    return signs / math.sqrt(VOICE_DIM)


# Weights


def norm_gain(layer: int) -> float:
    """What RMSNorm multiplies the residual stream by, before this layer (4: before `lm_head`)."""
    return math.sqrt(HIDDEN_SIZE / SQUARED_LENGTHS[layer])


def code_slot(distance: int, count: int = 1) -> slice:
    """Where the residual stream holds the codes of the tokens `distance` .. `distance + count - 1` back."""
    return slice(distance * CODE_DIM, (distance + count) * CODE_DIM)


def match_dims(distance: int) -> npt.NDArray[np.int64]:
    """The dimensions of a head on which the codes `distance` back are compared; the heavier the slower they turn."""
    first = PAIRS - 1 - 8 * (distance + 1)
    pairs = np.arange(first, first + 8)
    return np.concatenate([pairs, pairs + PAIRS])


def embeddings() -> Array:
    """`[VOCAB_SIZE, HIDDEN_SIZE]`. The token that begins a text has no voice: it stands for "nothing found"."""
    table = np.zeros((VOCAB_SIZE, HIDDEN_SIZE))
    table[:, code_slot(0)] = token_codes()
    table[:, VOICE] = token_voices()
    table[:, ONE] = 1.0
    table[BOS_ID, VOICE] = 0.0
    table[BOS_ID, BEGIN] = 1.0
    return table


def lm_head() -> Array:
    """`[VOCAB_SIZE, HIDDEN_SIZE]`. The token that begins a text is never said."""
    table = np.zeros((VOCAB_SIZE, HIDDEN_SIZE))
    table[:, SAID] = token_voices() * SPEECH_SCORE / norm_gain(4)
    table[BOS_ID] = 0.0
    return table


def empty_attention() -> dict[str, Array]:
    """All four projections of an attention of one head, zero."""
    into, out_of = (HEAD_DIM, HIDDEN_SIZE), (HIDDEN_SIZE, HEAD_DIM)
    return {"q": np.zeros(into), "k": np.zeros(into), "v": np.zeros(into), "o": np.zeros(out_of)}


def look_back_attention(layer: int) -> dict[str, Array]:
    """Attends to exactly one token, `distance` back, and copies its first codes.

    Query and key are constants, the query turned back by `distance`; the rotary embedding does the rest. Where there is
    no such token, the first one is the nearest.
    """
    distance, count = LOOK_BACK[layer]
    weights, gain = empty_attention(), norm_gain(layer)
    pairs, amplitude = np.arange(POSITION_PAIRS), LOOK_BACK_SCORE * math.sqrt(HEAD_DIM) / gain
    weights["q"][pairs, ONE] = amplitude * np.cos(distance * FREQUENCIES)
    weights["q"][pairs + PAIRS, ONE] = -amplitude * np.sin(distance * FREQUENCIES)
    weights["k"][pairs, ONE] = 1.0 / gain
    codes = np.eye(count * CODE_DIM)
    weights["v"][: len(codes), code_slot(0, count)] = codes / gain
    weights["o"][code_slot(distance, count), : len(codes)] = codes
    return weights


def copy_attention() -> dict[str, Array]:
    """Attends to the token whose predecessors are the newest tokens, and copies its voice.

    The first token of a text takes no part in the comparison; it has a fixed score and the voice of the end.
    """
    layer = len(LOOK_BACK)
    weights, gain = empty_attention(), norm_gain(layer)
    identity, amplitude = np.eye(CODE_DIM), math.sqrt(HEAD_DIM) / gain
    for distance, score in enumerate(MATCH_SCORES):
        dims = match_dims(distance)
        weights["q"][dims, code_slot(distance)] = score * amplitude * identity
        weights["k"][dims, code_slot(distance + 1)] = identity / gain
        weights["k"][dims, BEGIN] = -token_codes()[BOS_ID] / gain
    weights["q"][PAIRS - 1, ONE] = END_SCORE * amplitude
    weights["k"][PAIRS - 1, BEGIN] = 1.0 / gain
    weights["v"][:VOICE_DIM, VOICE] = np.eye(VOICE_DIM) / gain
    weights["v"][:VOICE_DIM, BEGIN] = token_voices()[EOS_ID] / gain
    weights["o"][SAID, :VOICE_DIM] = np.eye(VOICE_DIM)
    return weights


def layer_tensors(layer: int, attention: dict[str, Array]) -> dict[str, Array]:
    """One decoder layer under Hugging Face's names."""
    prefix = f"model.layers.{layer}."
    tensors = {f"{prefix}self_attn.{name}_proj.weight": weight for name, weight in attention.items()}
    for name in ("gate", "up", "down"):
        shape = (HIDDEN_SIZE, INTERMEDIATE_SIZE) if name == "down" else (INTERMEDIATE_SIZE, HIDDEN_SIZE)
        tensors[f"{prefix}mlp.{name}_proj.weight"] = np.zeros(shape)
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{prefix}{name}.weight"] = np.ones(HIDDEN_SIZE)
    return tensors


def all_tensors() -> dict[str, npt.NDArray[np.float32]]:
    """The whole checkpoint, f32: half precision would do for the weights, but invites others to compute in it."""
    tensors = {"model.embed_tokens.weight": embeddings()}
    attentions = [look_back_attention(layer) for layer in range(len(LOOK_BACK))]
    for layer, attention in enumerate([*attentions, copy_attention()]):
        tensors |= layer_tensors(layer, attention)
    tensors |= {"model.norm.weight": np.ones(HIDDEN_SIZE), "lm_head.weight": lm_head()}
    return {name: tensor.astype("<f4") for name, tensor in tensors.items()}


# Files


def config_json() -> dict[str, Any]:
    """What transformers and others need to know."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": INTERMEDIATE_SIZE,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 1,
        "num_hidden_layers": len(LOOK_BACK) + 1,
        "num_key_value_heads": 1,
        "rms_norm_eps": RMS_NORM_EPS,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vocab_size": VOCAB_SIZE,
    }


def safetensors_bytes(tensors: dict[str, npt.NDArray[np.float32]]) -> bytes:
    """A safetensors file: length of the header (8 bytes), header in JSON, padded to 8 bytes, then the values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return b"".join([struct.pack("<Q", len(encoded)), encoded, *(tensor.tobytes() for tensor in tensors.values())])


def json_bytes(content: dict[str, Any], indent: int | None = 2) -> bytes:
    return (json.dumps(content, indent=indent, ensure_ascii=False) + "\n").encode()


def model_files() -> dict[str, bytes]:
    """Every file of the model's directory, by name."""
    return {
        "README.md": README.encode(),
        "config.json": json_bytes(config_json()),
        "generation_config.json": json_bytes({"bos_token_id": BOS_ID, "do_sample": False, "eos_token_id": EOS_ID}),
        "model.safetensors": safetensors_bytes(all_tensors()),
        "tokenizer.json": json_bytes(tokenizer_json(), indent=1),
        "tokenizer_config.json": json_bytes(tokenizer_config_json(CONTEXT)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the bundled model `recall`.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIRECTORY", help="default: %(default)s")
    directory: Path = parser.parse_args().out
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in model_files().items():
        (directory / name).write_bytes(content)
        print(f"{len(content):10} bytes  {name}")


if __name__ == "__main__":
    main()
