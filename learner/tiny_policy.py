"""Builds a language model small enough to be trained from nothing on two cores: tokenizer, random weights, files.

The result is an ordinary model directory (safetensors, `AutoTokenizer`, `AutoModelForCausalLM`), so vLLM and the
learner load it as they load a 7B. It knows nothing: a supervised warm-up teaches it wording and format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from data.errors import ConfigError
from learner.config import TinyPolicyConfig

PAD_TOKEN, EOS_TOKEN = "<|pad|>", "<|end|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
LABEL_TOKENS = tuple("ABCDEFGHIJ")
"""Always one token each, also within a word, so that an answer is a single decision."""


def build_tiny_policy(config: TinyPolicyConfig, texts: Iterable[str], out_dir: str | Path) -> None:
    """Train a tokenizer on ``texts``, draw random weights and write both to ``out_dir``; deterministic.

    Args:
        texts: prompts and demonstrations as the policy will see them; bytes cover whatever else may come.

    Raises:
        ConfigError: ``out_dir`` already holds a model.
    """
    folder = Path(out_dir)
    if (folder / "config.json").exists():
        raise ConfigError(f"out_dir {folder} already holds a model", remedy="remove it or build the policy elsewhere")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(config, texts)
    model = build_model(config, tokenizer)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, safe_serialization=True)


def build_tokenizer(config: TinyPolicyConfig, texts: Iterable[str]) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer of at most ``vocab_size`` tokens, of the class that a Qwen2 model is loaded with.

    Tags and labels are added tokens but not "special" ones: decoding with special tokens skipped must keep them, since
    the reward reads them from the text.
    """
    names = {"unk_token": None, "bos_token": None, "eos_token": EOS_TOKEN, "pad_token": PAD_TOKEN}
    pipeline = Qwen2Tokenizer(**names).backend_tokenizer  # only for its normaliser and pre-tokeniser
    bpe = Tokenizer(BPE())
    bpe.normalizer, bpe.pre_tokenizer = pipeline.normalizer, pipeline.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=config.vocab_size - len(TAGS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD_TOKEN, EOS_TOKEN],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        model_max_length=config.max_positions,
        **names,
    )
    # Letters are in the byte alphabet already; adding them makes them atoms where they stand alone as a word.
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, single_word=t in LABEL_TOKENS) for t in (*TAGS, *LABEL_TOKENS)]
    )
    return tokenizer


def build_model(config: TinyPolicyConfig, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A Qwen2 model with random fp32 weights, drawn without touching the caller's random state."""
    shape = Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=4 * config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Qwen2ForCausalLM(shape)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model
