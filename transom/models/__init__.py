"""Architectures: one file per model family and a table. A model turns a `ForwardBatch` into logits.

Adding a family: one file, one line in ARCHITECTURES (or in ALIASES when the computation is the same and only settings
differ). Models build themselves from a `WeightLoader`; they know no scheduler, no cache manager, no file.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom.config.model_config import ModelConfig
from transom.errors import UnsupportedModelError
from transom.layers.forward_batch import ForwardBatch
from transom.models.llama import LlamaModel
from transom.weights.loader import WeightLoader

__all__ = ["ALIASES", "ARCHITECTURES", "Model", "build"]


class Model(Protocol):
    """What the model runner needs of a model."""

    def forward(self, batch: ForwardBatch) -> NDArray[np.float32]:
        """Logits [R, vocab_size] of the batch's `logit_rows`. Blocks; one call at a time."""
        ...


ARCHITECTURES = {
    "llama": LlamaModel,
}

# model_type -> the architecture that computes it; the differences are settings of ModelConfig.
ALIASES = {
    "mistral": "llama",
    "qwen2": "llama",
}


def build(config: ModelConfig, loader: WeightLoader) -> Model:
    """Builds the model of `config.model_type` and loads its weights.

    Raises UnsupportedModelError for an unknown model type and WeightsError for weights that do not fit.
    """
    name = ALIASES.get(config.model_type, config.model_type)
    if name not in ARCHITECTURES:
        known = ", ".join(sorted({*ARCHITECTURES, *ALIASES}))
        raise UnsupportedModelError(f"model_type {config.model_type!r} is not supported; supported: {known}")
    return ARCHITECTURES[name](config, loader)
