"""Models that cannot be trained in packed rows are refused, by what they do and not by their names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from data.errors import EngineError, SetupError
from learner.packing_check import check_packing
from learner.policy import _without_dropout
from learner.scoring import install_scoring_head, score
from learner.segments import ATTENTION, register
from learner.tensors import collate

VOCABULARY = 97
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}


def ask(family: str, *, dtype: torch.dtype = torch.float32, clean: bool = True, **settings: Any) -> None:
    """`check_packing` of a random model of a family, in training mode."""
    register()
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SIZES | settings))
    if clean:
        _without_dropout(config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    install_scoring_head(model, 1 << 20)
    with torch.no_grad():
        check_packing(lambda rows: score(model.train(), collate(rows), 1.0)[0], VOCABULARY, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "smollm3", "olmo2", "granite"])
def test_decoders_with_attention_alone_are_trained(family: str, dtype: torch.dtype) -> None:
    ask(family, dtype=dtype, pad_token_id=0)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("falcon_h1", {"mamba_n_heads": 8, "mamba_d_ssm": 128, "mamba_d_state": 16, "mamba_d_head": 16}),
        ("mamba", {}),
        ("bloom", {"n_layer": 2, "n_head": 4}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_else_passes_from_token_to_token_is_found(
    family: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    with pytest.raises(SetupError, match="does not keep the completions of a packed row apart"):
        ask(family, dtype=dtype, **settings)


def test_dropout_is_off_by_every_name() -> None:
    ask("seed_oss", residual_dropout=0.1, attention_dropout=0.1)
    with pytest.raises(SetupError, match="differently each time"):
        ask("seed_oss", residual_dropout=0.1, attention_dropout=0.0, clean=False)


def test_more_than_attention_is_refused() -> None:
    with pytest.raises(EngineError, match="Gemma2Attention asks its attention for softcap"):
        ask("gemma2", final_logit_softcapping=None, attn_logit_softcapping=50.0)
    ask("gemma2", final_logit_softcapping=None, attn_logit_softcapping=None)
    with pytest.raises(EngineError, match="random dropout"):
        ask("qwen2", attention_dropout=0.1, clean=False)
