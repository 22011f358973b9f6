"""A tiny random Qwen2 with a byte-level tokenizer, its weights as an update, and transformers as the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from data.records import Completion
from data.wire import TensorSlot, WeightBucket, WeightUpdate
from learner.config import LoraConfig
from learner.lora import add_adapter, named_weights
from learner.weight_sending import WeightPublisher

VOCABULARY = 300
EOS, END = 257, 258  # two tokens that end a completion


def build_model(seed: int, *, tied: bool = True) -> Qwen2ForCausalLM:
    """Weights wide enough for distributions that differ clearly. vLLM's CPU kernel needs heads of 32 at least."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=256,
        initializer_range=0.2,
    )
    return Qwen2ForCausalLM(config).float().eval()


def save_model(model: Qwen2ForCausalLM, folder: Path) -> str:
    """Write model, generation configuration (with sampling defaults that must be ignored) and tokenizer."""
    model.generation_config.eos_token_id = [EOS, END]
    model.generation_config.do_sample = True
    model.generation_config.top_k = 3
    model.generation_config.temperature = 0.3
    model.save_pretrained(folder)
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<end>", "<think>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    return str(folder)


def update_of(
    model: Qwen2ForCausalLM, version: int, *, bucket_bytes: int = 1 << 16, leave_out: str = ""
) -> WeightUpdate:
    """The model's parameters in buckets; the array itself stands for the reference."""
    named = [(n, p.detach().contiguous()) for n, p in model.named_parameters() if n != leave_out]
    buckets: list[WeightBucket] = []
    slots: list[TensorSlot] = []
    parts: list[np.ndarray] = []
    size = 0
    for index, (name, tensor) in enumerate(named):
        data = tensor.view(torch.uint8).numpy().reshape(-1)
        dtype = str(tensor.dtype).removeprefix("torch.")
        slots.append(TensorSlot(name=name, dtype=dtype, shape=tuple(tensor.shape), offset=size, nbytes=data.nbytes))
        parts.append(data)
        size += data.nbytes
        if size >= bucket_bytes or index == len(named) - 1:
            buckets.append(WeightBucket(slots=tuple(slots), nbytes=size, ref=np.concatenate(parts)))
            slots, parts, size = [], [], 0
    return WeightUpdate(version=version, buckets=tuple(buckets))


@torch.no_grad()
def learnt_adapter(model: Any, lora: LoraConfig, *, seed: int, size: float = 0.1) -> Any:
    """``model`` with an adapter that has learnt something: its B is no longer zero but of ``size``."""
    add_adapter(model, lora, seed=seed)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.copy_(size * torch.randn_like(parameter))
    return model


def published(model: Any, version: int, *, base: str = "", bucket_bytes: int = 1 << 12) -> WeightUpdate:
    """What the learner hands out of ``model``: merged, or its adapter on ``base``; arrays stand for references."""
    with patch("ray.put", lambda flat: flat):
        update = WeightPublisher(bucket_bytes, sender=True, adapter_base=base).publish(model, version)
    assert update is not None
    return update


def merged_model(model: Any, *, tied: bool = True) -> Qwen2ForCausalLM:
    """A plain model in fp32 with the weights of an adapted one."""
    plain = build_model(0, tied=tied)
    plain.load_state_dict({weight.name: weight.value() for weight in named_weights(model)}, strict=not tied)
    return plain


@torch.no_grad()
def reference_logprobs(model: Qwen2ForCausalLM, completion: Completion, temperature: float = 1.0) -> np.ndarray:
    """float32[len(token_ids)]: log-probabilities of the sampled tokens by a plain forward pass."""
    prompt, tokens = list(completion.prompt_token_ids), list(completion.token_ids)
    logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1] / (temperature or 1.0)
    picked = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(tokens)[:, None])
    return np.asarray(picked[:, 0].numpy(), dtype=np.float32)


def gap(model: Qwen2ForCausalLM, completions: Sequence[Completion], temperature: float = 1.0) -> float:
    """Mean absolute difference between sampled and reference log-probabilities over all tokens."""
    differences = [np.abs(np.array(c.logprobs) - reference_logprobs(model, c, temperature)) for c in completions]
    return float(np.concatenate(differences).mean())
