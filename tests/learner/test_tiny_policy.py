"""The tiny policy is an ordinary model directory with a tokenizer fit for the tags."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from data.errors import ConfigError
from data.prompts import encode_prompt, encode_target, render_prompt, target_text
from learner.config import TinyPolicyConfig
from learner.tiny_policy import build_tiny_policy
from tests.data.examples import MARFAN

CONFIG = TinyPolicyConfig(hidden_size=32, layers=2, vocab_size=320, max_positions=64)
TEXTS = [render + MARFAN.answer_text for render in ("Which finding belongs to ", "Which finding is seen in ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "policy"
    build_tiny_policy(CONFIG, TEXTS, path)
    return path


def test_model_has_the_shape_asked_for(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (folder / "model.safetensors").exists()
    assert model.config.model_type == "qwen2" and model.dtype == torch.float32
    assert model.get_input_embeddings().weight.shape == (320, 32)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr(), "embeddings are tied"
    assert model.config.max_position_embeddings == 64


def test_tokenizer_fits_the_model_and_keeps_the_tags(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) <= CONFIG.vocab_size
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.eos_token_id, generation.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    ids = encode_target(MARFAN, tokenizer, "long fingers")
    assert max(ids) < CONFIG.vocab_size
    assert tokenizer.decode(ids, skip_special_tokens=True) == target_text(MARFAN, "long fingers")
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert len(tokenizer.encode(tag)) == 1


def test_the_answer_is_one_token_the_same_as_the_options_letter(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    letter = tokenizer.encode(MARFAN.answer_label)
    assert len(letter) == 1
    target = encode_target(MARFAN, tokenizer, "x")
    assert target[-3:-1] == (letter[0], tokenizer.encode("</answer>")[0])
    assert letter[0] in encode_prompt(MARFAN, tokenizer)


def test_any_text_survives_the_bytes(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(encode_prompt(MARFAN, tokenizer)) == render_prompt(MARFAN, tokenizer)
    assert tokenizer.decode(tokenizer.encode("骨 😀 \t x")) == "骨 😀 \t x"


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_same_config_same_files(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    build_tiny_policy(CONFIG, TEXTS, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    assert digests(tmp_path / "again") == digests(folder)
    build_tiny_policy(CONFIG.model_copy(update={"seed": 1}), TEXTS, tmp_path / "other")
    changed = {name for name, digest in digests(tmp_path / "other").items() if digest != digests(folder)[name]}
    assert changed == {"model.safetensors"}


def test_nothing_is_overwritten(folder: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a model"):
        build_tiny_policy(CONFIG, TEXTS, folder)


def test_impossible_shapes_are_refused() -> None:
    for bad in ({"hidden_size": 100, "heads": 8}, {"heads": 4, "kv_heads": 3}):
        with pytest.raises(ValidationError):
            TinyPolicyConfig(**bad)
