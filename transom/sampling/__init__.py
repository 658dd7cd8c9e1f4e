"""From one row of logits to one token. Pure functions of NumPy arrays; knows no batch, no engine, no model.

The one rule of this room: a row's token depends on its logits, its parameters, its own earlier tokens and its seed, and
on nothing else, so that the same request gives the same text whatever runs beside it.
"""

from transom.sampling.logprobs import prompt_logprobs, token_logprobs
from transom.sampling.sampler import sample

__all__ = ["prompt_logprobs", "sample", "token_logprobs"]
