"""An adapter in an unsharded model: what it is called, what it adds, what is left without it (ZeRO-3: integration)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from data.errors import ConfigError
from learner.config import LoraConfig
from learner.lora import add_adapter, named_weights, without_adapter
from learner.weight_sending import gather_buckets
from tests.tiny_model import build_model, learnt_adapter

IDS = torch.tensor([[3, 5, 7, 11]])


def adapted(lora: LoraConfig, *, trained: bool = True) -> Any:
    """The tiny model with an adapter, in fp64."""
    return learnt_adapter(build_model(0).double(), lora, seed=4, size=0.1 if trained else 0.0)


def test_a_fresh_adapter_changes_nothing_and_alone_is_trained() -> None:
    model = adapted(LoraConfig(rank=3), trained=False)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, build_model(0).double()(IDS).logits, rtol=0, atol=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert len(trained) == 2 * 7 * 2  # A and B of seven projections in two layers; not the output layer


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj")])
def test_merged_weights_are_the_policy_under_the_names_of_the_base(targets: tuple[str, ...]) -> None:
    model, plain = adapted(LoraConfig(rank=3, alpha=5.0, targets=targets)), build_model(0).double()
    merged = {weight.name: weight.value() for weight in named_weights(model)}
    assert list(merged) == [name for name, _ in plain.named_parameters()]
    changed = [name for name, parameter in plain.named_parameters() if not torch.equal(parameter, merged[name])]
    assert len(changed) == 2 * (7 if targets == ("all-linear",) else 2)
    plain.load_state_dict(merged, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, model(IDS).logits, rtol=0, atol=1e-12)


def test_buckets_carry_the_merged_weights() -> None:
    model = adapted(LoraConfig(rank=2)).float()
    expected = {weight.name: weight.value() for weight in named_weights(model)}
    seen = 0
    for slots, flat in gather_buckets(named_weights(model), 30_000):
        for slot in slots:
            raw = torch.from_numpy(flat[slot.offset : slot.offset + slot.nbytes])
            assert torch.equal(raw.view(torch.float32).reshape(slot.shape), expected[slot.name]), slot.name
            seen += 1
    assert seen == len(expected)


def test_without_the_adapter_the_base_speaks_to_the_bit() -> None:
    model = adapted(LoraConfig(rank=3))
    with torch.no_grad():
        own = model(IDS).logits
        with without_adapter(model):
            assert torch.equal(model(IDS).logits, build_model(0).double()(IDS).logits)
        assert torch.equal(model(IDS).logits, own)
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if ".lora_" in name)


def test_the_adapter_is_the_seed_s() -> None:
    def first(model: Any) -> torch.Tensor:
        return next(p for name, p in model.named_parameters() if ".lora_A." in name)

    torch.manual_seed(1)
    one = first(adapted(LoraConfig(), trained=False))
    torch.manual_seed(2)
    assert torch.equal(one, first(adapted(LoraConfig(), trained=False)))


@pytest.mark.parametrize("wrong", ["c_attn", "k_prj", "embed_tokens", "lm_head"])
def test_targets_that_are_no_linear_layer_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"learner\.lora\.targets names {wrong}, which"):
        add_adapter(build_model(0), LoraConfig(targets=("q_proj", wrong)), seed=0)
