"""Trains a small Mistral-architecture language model on one plain-text book, from nothing, on a CPU.

    python scripts/train_book_model.py --text war-and-peace.txt --out tolstoy --minutes 70

Needs torch and transformers (the extra `parity`). Writes a Hugging Face directory: config.json, model.safetensors,
tokenizer.json (byte-level BPE of 4096 tokens, trained on the same text). The bundled model `tolstoy` was made by this
recipe in two runs: see `docs/bundled_models.md`. The result depends on the clock, so no two runs are alike.
Owns the recipe; knows nothing of the server.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from torch import Tensor

VOCAB_SIZE = 4096
CONTEXT = 8192
BOS, EOS = "<|bos|>", "<|eos|>"
VALIDATION_TOKENS = 40_000
LEARNING_RATE = 2e-3
LAST_LEARNING_RATE_SHARE = 0.03
WARM_UP_STEPS = 50
REPORT_STEPS = 100


@dataclass(frozen=True, slots=True)
class Phase:
    """Batches of one shape, until a share of the time has passed."""

    until: float
    length: int
    sequences: int


PHASES = (Phase(0.55, 256, 16), Phase(0.85, 512, 8), Phase(0.95, 2048, 2), Phase(1.0, 4096, 1))
VALIDATION = Phase(1.0, 512, 16)


def read_paragraphs(path: Path) -> str:
    """The text with one line per paragraph, so that the model learns sentences rather than line breaks."""
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    paragraphs = (" ".join(block.split()) for block in text.split("\n\n"))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def train_tokenizer(text: str) -> Tokenizer:
    """A byte-level BPE that puts BOS before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[BOS, EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, model_max_length=CONTEXT)
    fast.save_pretrained(directory)


def new_model() -> MistralForCausalLM:
    """4.7 million parameters; every layer attends to the whole context."""
    config = MistralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        sliding_window=None,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        rms_norm_eps=1e-5,
        attn_implementation="sdpa",
    )
    return MistralForCausalLM(config)


def new_optimizer(model: MistralForCausalLM) -> torch.optim.Optimizer:
    """AdamW that lets matrices decay and leaves norms alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))


def loss_on(model: MistralForCausalLM, tokens: Tensor, batch: Phase) -> Tensor:
    """Mean loss per token, in nats, on random stretches of the text."""
    starts = torch.randint(0, len(tokens) - batch.length - 1, (batch.sequences,))
    inputs = torch.stack([tokens[start : start + batch.length] for start in starts])
    targets = torch.stack([tokens[start + 1 : start + batch.length + 1] for start in starts])
    logits = model(input_ids=inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def learning_rate(step: int, done: float) -> float:
    """Linear warm-up, then half a cosine over the share of the time that is done."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return LEARNING_RATE * warm_up * (LAST_LEARNING_RATE_SHARE + (1 - LAST_LEARNING_RATE_SHARE) * cosine)


def shares_done(seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[float]:
    """The share of the time that has passed, for as long as some is left."""
    started = clock()
    while (done := (clock() - started) / seconds) < 1:
        yield done


def train(model: MistralForCausalLM, tokens: Tensor, validation: Tensor, seconds: float) -> None:
    """Trains in place for so long; prints the loss now and then."""
    optimizer = new_optimizer(model)
    for step, done in enumerate(shares_done(seconds)):
        phase = next(phase for phase in PHASES if done < phase.until)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done)
        loss = loss_on(model, tokens, phase)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % REPORT_STEPS == 0:
            report(model, validation, step + 1, phase, loss)


def report(model: MistralForCausalLM, validation: Tensor, step: int, phase: Phase, loss: Tensor) -> None:
    """One line about the training and the held-out loss."""
    with torch.no_grad():
        held_out = loss_on(model, validation, VALIDATION)
    print(f"step {step} length {phase.length} loss {loss.item():.3f} held-out {held_out.item():.3f}", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small language model on one plain-text book.")
    parser.add_argument("--text", type=Path, required=True, help="the book, UTF-8, paragraphs apart by blank lines")
    parser.add_argument("--out", type=Path, required=True, metavar="DIRECTORY")
    parser.add_argument("--minutes", type=float, default=70, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    text = read_paragraphs(options.text)
    tokenizer = train_tokenizer(text)
    save_tokenizer(tokenizer, options.out)
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
    model = new_model()
    print(f"{len(ids)} tokens, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train(model, ids[:-VALIDATION_TOKENS], ids[-VALIDATION_TOKENS:], options.minutes * 60)
    model.eval().to(torch.bfloat16).save_pretrained(options.out)


if __name__ == "__main__":
    main()
