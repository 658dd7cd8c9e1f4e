"""Small stand-ins that several test packages share: a model whose logits are known, checkpoints written on the spot."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from transom.config.engine_config import EngineConfig
from transom.config.model_config import LayerKind, ModelConfig, RopeConfig
from transom.layers.forward_batch import AttentionSpec, ForwardBatch
from transom.request import Request, SamplingParams

BYTE_VOCAB = 256
BYTE_EOS = 255


def byte_model_config(vocab_size: int = BYTE_VOCAB, eos_token_ids: tuple[int, ...] = (BYTE_EOS,)) -> ModelConfig:
    """One layer with one KV head of 8 channels over a vocabulary of bytes."""
    return ModelConfig(
        model_type="llama",
        vocab_size=vocab_size,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        layer_types=(LayerKind.FULL_ATTENTION,),
        sliding_window=None,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope=RopeConfig(rope_type="default", rope_theta=10_000.0, rotary_dim=8),
        tie_word_embeddings=False,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        bos_token_id=None,
        eos_token_ids=eos_token_ids,
        pad_token_id=None,
        dtype="float32",
    )


def small_engine_config(
    model_path: Path = Path("no-weights"),
    *,
    kv_cache_ram_bytes: int = 2**20,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 64,
    max_num_waiting: int = 64,
    max_ram_bytes: int | None = None,
) -> EngineConfig:
    """Limits small enough to be reached in a test."""
    return EngineConfig(
        model_path=model_path,
        context_window=4096,
        kv_dtype="f32",
        kv_cache_ram_bytes=kv_cache_ram_bytes,
        max_ram_bytes=max_ram_bytes,
        num_threads=1,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_waiting=max_num_waiting,
    )


class SuccessorModel:
    """The most likely token after t is t + 1, through attention: each row asks the cache for what it stored there.

    Keys are zero but for a channel that tells positions apart, values carry the token, so a row that attends to the
    wrong block, or to another sequence's, gives a wrong successor. `poison` tokens make the whole pass raise,
    `nan_tokens` make the logits of their own row useless.
    """

    def __init__(
        self, vocab_size: int = BYTE_VOCAB, *, poison: Iterable[int] = (), nan_tokens: Iterable[int] = ()
    ) -> None:
        self._vocab_size = vocab_size
        self._poison = frozenset(poison)
        self._nan_tokens = frozenset(nan_tokens)
        self.num_rows: list[int] = []
        """Tokens of each pass, for tests that count."""
        self.may_run = threading.Event()
        self.may_run.set()

    def forward(self, batch: ForwardBatch) -> NDArray[np.float32]:
        """Logits [R, vocab_size]: 0 everywhere, 10 at the successor of the token that attention found."""
        return self.logits(self.hidden_states(batch))

    def hidden_states(self, batch: ForwardBatch) -> NDArray[np.float32]:
        """[R, 2]: the token that attention found, and the row's position."""
        self.may_run.wait()
        if self._poison.intersection(batch.token_ids.tolist()):
            raise RuntimeError("poisoned")
        self.num_rows.append(len(batch.token_ids))
        found = self._own_tokens(batch)[batch.logit_rows]
        hidden = np.stack((found, batch.positions[batch.logit_rows]), axis=1).astype(np.float32)
        hidden[np.isin(batch.token_ids[batch.logit_rows], list(self._nan_tokens))] = np.nan
        return hidden

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of rows of hidden states."""
        logits = np.zeros((len(hidden), self._vocab_size), np.float32)
        successors = (np.nan_to_num(hidden[:, 0]).astype(np.int64) + 1) % self._vocab_size
        logits[np.arange(len(hidden)), successors] = 10.0
        logits[np.isnan(hidden[:, 0])] = np.nan
        return logits

    def _own_tokens(self, batch: ForwardBatch) -> NDArray[np.int64]:
        """Each row's own token, read back from the cache by attending to its own position only."""
        num_rows = len(batch.token_ids)
        query, key, value = (np.zeros((num_rows, 1, 8), np.float32) for _ in range(3))
        angle = batch.positions[:, None].astype(np.float64) * np.array([1.0, 0.1, 0.01])
        key[:, 0, :6] = query[:, 0, :6] = np.concatenate((np.cos(angle), np.sin(angle)), axis=1)
        value[:, 0, 0] = batch.token_ids
        attended = batch.cache.attend(0, query, key, value, AttentionSpec(scale=1e6))
        return np.rint(attended[:, 0, 0]).astype(np.int64)


def byte_request(
    text: str | bytes = "a", *, request_id: str = "r", max_tokens: int = 4, temperature: float = 0.0, **sampling: object
) -> Request:
    """A request whose tokens are the bytes of `text`, greedy unless said otherwise."""
    prompt = text.encode() if isinstance(text, str) else text
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, **sampling)  # type: ignore[arg-type]
    return Request(request_id, tuple(prompt), params)


def write_tiny_llama(
    directory: Path, *, vocab_size: int = 259, sliding_window: int | None = None, seed: int = 0
) -> None:
    """A Llama checkpoint (Mistral with a `sliding_window`) of random weights: 2 layers, 4 heads over 2 KV heads."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(_tiny_llama_config(vocab_size, sliding_window)))
    rng = np.random.default_rng(seed)
    tensors = {
        name: (rng.standard_normal(shape) * (0.2 if len(shape) > 1 else 0.05) + (len(shape) == 1)).astype(np.float32)
        for name, shape in _tiny_llama_shapes(vocab_size).items()
    }
    save_file(tensors, directory / "model.safetensors")


_HIDDEN, _INTERMEDIATE, _LAYERS, _HEADS, _KEY_VALUE_HEADS, _HEAD_DIM = 48, 80, 2, 4, 2, 12


def _tiny_llama_config(vocab_size: int, sliding_window: int | None) -> dict[str, object]:
    return {
        "model_type": "llama" if sliding_window is None else "mistral",
        "vocab_size": vocab_size,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KEY_VALUE_HEADS,
        "head_dim": _HEAD_DIM,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        **({} if sliding_window is None else {"sliding_window": sliding_window}),
    }


def _tiny_llama_shapes(vocab_size: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab_size, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
        "lm_head.weight": (vocab_size, _HIDDEN),
    }
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (_HIDDEN,),
            f"{prefix}.post_attention_layernorm.weight": (_HIDDEN,),
            f"{prefix}.self_attn.q_proj.weight": (_HEADS * _HEAD_DIM, _HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": (_KEY_VALUE_HEADS * _HEAD_DIM, _HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": (_KEY_VALUE_HEADS * _HEAD_DIM, _HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": (_HIDDEN, _HEADS * _HEAD_DIM),
            f"{prefix}.mlp.gate_proj.weight": (_INTERMEDIATE, _HIDDEN),
            f"{prefix}.mlp.up_proj.weight": (_INTERMEDIATE, _HIDDEN),
            f"{prefix}.mlp.down_proj.weight": (_HIDDEN, _INTERMEDIATE),
        }
    return shapes
