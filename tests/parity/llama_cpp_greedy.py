"""What llama.cpp says to a prompt, greedily: a program for the environment that has `llama_cpp`.

    python tests/parity/llama_cpp_greedy.py MODEL.gguf LOGITS.npy NUM_TOKENS PROMPT_TOKEN...

Writes the logits [NUM_TOKENS, vocab_size] from which each token was chosen. KV is f32, so that what differs is the
order of additions, and what ggml tabulates.
"""

from __future__ import annotations

import sys

import llama_cpp
import numpy as np

path, target, num_tokens, *prompt = sys.argv[1:]
F32 = 0
model = llama_cpp.Llama(
    path, n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, type_k=F32, type_v=F32, verbose=False
)
tokens = [int(token) for token in prompt]
rows = []
for _ in range(int(num_tokens)):
    model.eval(tokens)
    rows.append(np.array(model.scores[model.n_tokens - 1], np.float32))
    tokens = [int(rows[-1].argmax())]
np.save(target, np.stack(rows))
