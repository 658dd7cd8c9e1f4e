"""Architectures: one file per model family and a table. A model turns a `ForwardBatch` into logits.

Adding a family: one file, one line in ARCHITECTURES (or in ALIASES when the computation is the same and only settings
differ). Models build themselves from a `WeightLoader`; they know no scheduler, no cache manager, no file.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom.config.model_config import ModelConfig
from transom.errors import UnsupportedModelError, WeightsError
from transom.layers.forward_batch import ForwardBatch
from transom.models.decoder_builder import DecoderBuilder
from transom.models.gemma2 import Gemma2Builder
from transom.models.gemma3 import Gemma3Builder
from transom.models.hunyuan_v1_dense import HunYuanV1DenseBuilder
from transom.models.lfm2 import Lfm2Builder
from transom.models.llama import LlamaBuilder
from transom.models.mixtral import MixtralBuilder
from transom.models.olmo2 import Olmo2Builder
from transom.models.phi3 import Phi3Builder
from transom.models.qwen3 import Qwen3Builder
from transom.models.qwen3_moe import Qwen3MoeBuilder
from transom.weights.loader import WeightLoader, WeightSource
from transom.weights.weight_check import TooManyProblemsError, WeightCheck
from transom.weights.weight_sizes import ClaimedWeights, Claims, WeightSizes

__all__ = [
    "ALIASES",
    "ARCHITECTURES",
    "Model",
    "arithmetic_version",
    "build",
    "claimed_weights",
    "misfits",
    "weight_sizes",
]


class Model(Protocol):
    """What the model runner needs of a model."""

    def forward(self, batch: ForwardBatch) -> NDArray[np.float32]:
        """Logits [R, vocab_size] of the batch's `logit_rows`. Blocks; one call at a time."""
        ...

    def hidden_states(self, batch: ForwardBatch) -> NDArray[np.float32]:
        """The first part of `forward`: [R, hidden_size] of the batch's `logit_rows`, behind the last norm."""
        ...

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """The second part: [R, hidden_size] -> [R, vocab_size]."""
        ...


ARCHITECTURES: dict[str, type[DecoderBuilder]] = {
    "gemma2": Gemma2Builder,
    "gemma3_text": Gemma3Builder,
    "hunyuan_v1_dense": HunYuanV1DenseBuilder,
    "lfm2": Lfm2Builder,
    "llama": LlamaBuilder,
    "mixtral": MixtralBuilder,
    "olmo2": Olmo2Builder,
    "phi3": Phi3Builder,
    "qwen3": Qwen3Builder,
    "qwen3_moe": Qwen3MoeBuilder,
}

# model_type -> the architecture that computes it; the differences are settings of ModelConfig.
ALIASES = {
    "granite": "llama",
    "ministral": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "smollm3": "llama",
}


_STORED_AS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def build(config: ModelConfig, loader: WeightLoader) -> Model:
    """Builds the model of `config.model_type` and loads its weights.

    Raises UnsupportedModelError for an unknown model type and WeightsError for weights that do not fit.
    """
    return _architecture(config.model_type)(config, loader).build()


def arithmetic_version(model_type: str) -> str:
    """Changes whenever a family computes other bits than before from the same weights. UnsupportedModelError."""
    architecture = _architecture(model_type)
    return f"{architecture.__name__} {architecture.arithmetic_version}"


def misfits(config: ModelConfig, source: WeightSource) -> list[str]:
    """What keeps a checkpoint's tensors from being the model's, one line each; a last line says that there is more.

    Reads headers only, in milliseconds, whatever either of them claims. Raises UnsupportedModelError as `build`.
    """
    check = WeightCheck(source)
    try:
        build(config, check)
    except TooManyProblemsError as error:
        return [*check.problems, str(error)]
    return check.problems


def weight_sizes(config: ModelConfig, source: WeightSource) -> WeightSizes:
    """What the weights take once they are loaded, and in which matrices. Reads headers only.

    Raises WeightsError for the first thing that keeps them from being the model's, UnsupportedModelError as `build`.
    """
    sizes = WeightSizes(source)
    with suppress(TooManyProblemsError):  # one is enough
        build(config, sizes)
    if sizes.problems:
        raise WeightsError(sizes.problems[0])
    return sizes


def claimed_weights(config: ModelConfig) -> ClaimedWeights:
    """The tensors that a checkpoint of this configuration has, in its type, without any values.

    Raises WeightsError when there are absurdly many.
    """
    claims = Claims()
    build(config, claims)
    return ClaimedWeights(claims.shapes, _STORED_AS[config.dtype])


def _architecture(model_type: str) -> type[DecoderBuilder]:
    name = ALIASES.get(model_type, model_type)
    if name not in ARCHITECTURES:
        known = ", ".join(sorted({*ARCHITECTURES, *ALIASES}))
        raise UnsupportedModelError(f"model_type {model_type!r} is not supported; supported: {known}")
    return ARCHITECTURES[name]
