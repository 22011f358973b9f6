"""The files for clusters: Ray accepts its YAML, and the SLURM script starts what it says, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.working_dir import CHECKOUT

DEPLOY = CHECKOUT / "cluster" / "deploy"


def test_ray_accepts_the_cluster_file() -> None:
    config = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="unexpected"):
        validate_config(prepare_config({**config, "head_nodes": 1}))
    starts = [command for key in ("head", "worker") for command in config[f"{key}_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Stand-ins for what SLURM, Ray and Fleming offer the script: each notes how it was called."""
    (tmp_path / "bin").mkdir()
    tools = {
        "scontrol": 'printf "node-a\\nnode-b\\nnode-c\\n" | head -n "$NODES"',
        "srun": 'case "$*" in *hostname*) echo 10.0.0.1;; *) echo "srun $*" >>"$LOG"; exec sleep 60;; esac',
        "python": """case "$*" in
            *secrets*) echo token;;
            *submit*) sleep 1; echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN python $*" >>"$LOG"; exit 7;;
        esac""",
    }
    for name, script in tools.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    (tmp_path / "bin" / "activate").write_text(f"PATH={tmp_path / 'bin'}:$PATH\n")
    return {
        "PATH": os.environ["PATH"],
        "LOG": str(tmp_path / "log"),
        "VENV": str(tmp_path),
        "NODES": "3",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_CPUS_ON_NODE": "32",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_JOB_NODELIST": "node-[a-c]",
    }


def script(environment: dict[str, str], *arguments: str) -> tuple[int, list[str], str]:
    command = ["bash", str(DEPLOY / "slurm.sh"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    log = Path(environment["LOG"])
    return done.returncode, log.read_text().splitlines() if log.exists() else [], done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the script is for Linux")
def test_the_slurm_script_starts_head_and_workers_and_gives_the_jobs_exit_code(slurm: dict[str, str]) -> None:
    code, calls, errors = script(slurm, "recipes/mine.yaml", "--set", "loop.steps=2")
    assert code == 7, errors
    starts = {call.split("--nodelist=")[1].split()[0]: call for call in calls if call.startswith("srun")}
    assert set(starts) == {"node-a", "node-b", "node-c"}
    assert "--head --node-ip-address=10.0.0.1" in starts["node-a"] and '{"learner": 1}' in starts["node-a"]
    for node in ("node-b", "node-c"):
        assert "--address=10.0.0.1:6379" in starts[node] and '{"engines": 1}' in starts[node]
    assert all("--num-cpus=32 --num-gpus=8" in call for call in starts.values())
    (submit,) = (call for call in calls if not call.startswith("srun"))
    assert submit == (
        "token token python -m cluster submit recipes/mine.yaml --address http://10.0.0.1:8265 "
        "--set run.wait_for_nodes_s=300 --set rollouts.node_group=engines --set learner.node_group=learner "
        "--set loop.steps=2"
    )


def test_one_node_is_shared_by_both_halves(slurm: dict[str, str]) -> None:
    code, calls, errors = script(slurm | {"NODES": "1"}, "recipes/mine.yaml")
    assert code == 7, errors
    assert sum(call.startswith("srun") for call in calls) == 1
    assert not any("node_group" in call for call in calls)


def test_a_forgotten_recipe_is_said(slurm: dict[str, str]) -> None:
    code, calls, errors = script(slurm)
    assert code == 2 and "error: no recipe. Remedy: sbatch" in errors and calls == []
