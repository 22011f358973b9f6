"""What an adapter sync makes of A and B and the base's files: to the bit the weights that a merged sync sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data.errors import EngineError
from data.low_rank import factor_names, fingerprint, merged_weights
from data.wire import WeightUpdate
from learner.config import LoraConfig
from tests.tiny_model import build_model, learnt_adapter, published, save_model

ALL, QUERY = ("all-linear",), ("q_proj",)


def tensors(update: WeightUpdate) -> Iterator[tuple[str, torch.Tensor]]:
    for bucket in update.buckets:
        assert isinstance(bucket.ref, np.ndarray)
        flat = torch.from_numpy(bucket.ref)
        for slot in bucket.slots:
            raw = flat[slot.offset : slot.offset + slot.nbytes]
            yield slot.name, raw.view(getattr(torch, slot.dtype)).reshape(slot.shape)


def engine_side(update: WeightUpdate) -> dict[str, torch.Tensor]:
    """The weights that an engine makes of an adapter update."""
    change = update.low_rank
    assert change is not None and change.fingerprint == fingerprint(change.base)
    weights = merged_weights(change.base, dict(tensors(update)), scaling=change.scaling, device=torch.device("cpu"))
    return dict(weights)


def learner_side(model_dir: str, dtype: torch.dtype, targets: tuple[str, ...], seed: int = 3) -> Any:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    return learnt_adapter(model, LoraConfig(rank=4, alpha=6.0, targets=targets), seed=seed)


@pytest.mark.parametrize("targets", [ALL, QUERY])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("stored", "computed"), [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16",) * 2])
def test_both_syncs_give_the_same_bits(
    tmp_path: Path, targets: tuple[str, ...], tied: bool, stored: str, computed: str
) -> None:
    model_dir = save_model(build_model(0, tied=tied).to(getattr(torch, stored)), tmp_path)
    model = learner_side(model_dir, getattr(torch, computed), targets)
    whole = dict(tensors(published(model, 1)))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # an engine has other threads than a rank
        summed = engine_side(published(model, 1, base=model_dir))
    finally:
        torch.set_num_threads(threads)
    assert summed.keys() == whole.keys()
    for name, weight in whole.items():
        assert weight.dtype == summed[name].dtype == getattr(torch, computed)
        assert torch.equal(weight, summed[name]), name
    base = build_model(0, tied=tied).to(getattr(torch, computed)).state_dict()
    changed = {name for name, weight in summed.items() if not torch.equal(weight, base[name])}
    assert len(changed) == 2 * (7 if targets == ALL else 1)


# Two layers of rank 4; inputs and outputs: q, o 64 + 64; k, v 64 + 32; gate, up, down 64 + 128.
@pytest.mark.parametrize(("targets", "numbers"), [(ALL, 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192)), (QUERY, 2 * 4 * 128)])
def test_the_bytes_on_the_wire_are_those_of_a_and_b(tmp_path: Path, targets: tuple[str, ...], numbers: int) -> None:
    model_dir = save_model(build_model(0), tmp_path)
    update = published(learner_side(model_dir, torch.float32, targets), 1, base=model_dir)
    assert sum(tensor.numel() for _, tensor in tensors(update)) == numbers
    assert 4 * numbers <= update.nbytes < 4 * numbers + 64 * sum(len(bucket.slots) for bucket in update.buckets)
    assert all(bucket.nbytes <= 1 << 12 for bucket in update.buckets)  # the bound of `published`


def test_an_update_says_what_it_changes(tmp_path: Path) -> None:
    model_dir = save_model(build_model(0), tmp_path)
    change = published(learner_side(model_dir, torch.float32, ("q_proj", "v_proj")), 1, base=model_dir).low_rank
    assert change is not None
    assert (change.base, change.rank, change.scaling) == (model_dir, 4, 1.5)
    assert change.weights == tuple(f"model.layers.{i}.self_attn.{p}_proj.weight" for i in range(2) for p in "qv")


def test_updates_do_not_pile_up_on_the_base(tmp_path: Path) -> None:
    """Each sum starts from the files: the second adapter does not find the first one in them."""
    model_dir = save_model(build_model(0), tmp_path)
    models = [learner_side(model_dir, torch.float32, ALL, seed) for seed in (1, 2)]
    engine_side(published(models[0], 1, base=model_dir))
    again = engine_side(published(models[1], 2, base=model_dir))
    assert all(torch.equal(weight, again[name]) for name, weight in tensors(published(models[1], 2)))


def test_a_half_pair_is_an_error_and_never_a_plain_base(tmp_path: Path) -> None:
    model_dir = save_model(build_model(0), tmp_path)
    update = published(learner_side(model_dir, torch.float32, QUERY), 1, base=model_dir)
    _, b = factor_names("model.layers.1.self_attn.q_proj.weight")
    left = [replace(bucket, slots=tuple(s for s in bucket.slots if s.name != b)) for bucket in update.buckets]
    with pytest.raises(KeyError, match=r"layers\.1\.self_attn\.q_proj\.lora_B"):
        engine_side(replace(update, buckets=tuple(left)))


def test_factors_that_change_no_weight_of_the_base_are_an_error(tmp_path: Path) -> None:
    model_dir = save_model(build_model(0), tmp_path)
    stray = {name: torch.ones(1, 1) for name in factor_names("elsewhere.q_proj.weight")}
    with pytest.raises(EngineError, match=r"2 factors of the adapter change no weight .* elsewhere\.q_proj\.lora_A"):
        list(merged_weights(model_dir, stray, scaling=1.0, device=torch.device("cpu")))
