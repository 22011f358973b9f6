"""A model small enough for tests, and ragged random batches."""

from __future__ import annotations

import random
from pathlib import Path

from data.wire import SupervisedSequence, TrainSequence
from tests.tiny_model import VOCABULARY, build_model


def write_tiny_model(folder: Path, *, seed: int = 0, tied: bool = True) -> str:
    """The tiny model without its tokenizer: large enough for ZeRO-3 to partition its matrices."""
    build_model(seed, tied=tied).save_pretrained(folder)
    return str(folder)


def train_sequences(count: int, *, seed: int = 0) -> list[TrainSequence]:
    """Ragged sequences with coefficients that sum to 1 and sampled log-probabilities of another policy."""
    rng = random.Random(seed)
    sequences = []
    for _ in range(count):
        tokens = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 9)))
        sequences.append(
            TrainSequence(
                prompt_token_ids=tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 12))),
                token_ids=tokens,
                sampled_logprobs=tuple(-rng.uniform(3.0, 8.0) for _ in tokens),
                advantage=rng.uniform(-1.0, 1.0),
                coefficient=1.0 / count,
            )
        )
    return sequences


def demonstrations(count: int, *, seed: int = 0) -> list[SupervisedSequence]:
    """Completions that follow from the prompt: the same two tokens again, then token 1 as the end."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt = tuple(rng.randrange(2, VOCABULARY) for _ in range(rng.randint(2, 5)))
        rows.append(SupervisedSequence(prompt_token_ids=prompt, token_ids=(7, 8, 9, 1)))
    return rows
