"""The shipped quickstart, whole: it starts at chance and learns from reward what it is there to show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

CHANCE = 0.25


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run_dir(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "cluster", "run", "recipes/quickstart.yaml"]
    settings = ["--set", f"run.storage={storage}", "--set", "run.name=soak"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run([*command, *settings], cwd=checkout, env=environment, timeout=3000, check=False)
    assert done.returncode == 0
    return storage / "soak"


def test_before_rl_the_answers_are_at_chance(run_dir: Path) -> None:
    before = next(event for event in rows(run_dir / "events.jsonl") if event["event"] == "evaluation")
    for how in ("greedy", "sampled"):
        low, high = before[f"eval/train_{how}_low"], before[f"eval/train_{how}_high"]
        assert low <= CHANCE <= high, f"{how}: {before[f'eval/train_{how}']:.3f} [{low:.3f}, {high:.3f}]"


def test_after_rl_the_answers_are_known(run_dir: Path) -> None:
    last = rows(run_dir / "metrics.jsonl")[-1]
    assert last["eval/train_sampled"] > 0.60
    assert last["eval/train_format"] > 0.95


def test_sampler_and_learner_agree_all_the_way(run_dir: Path) -> None:
    assert max(row["learner/logprob_gap_mean"] for row in rows(run_dir / "metrics.jsonl")) < 1e-3


def test_the_curve_was_drawn(run_dir: Path) -> None:
    assert (run_dir / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
