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
        "srun": """case "$*" in
            *--overlap*) echo "srun $*" >>"$LOG"; exec sleep 60;;
            *) while [ "${1#--}" != "$1" ]; do shift; done; exec "$@";;
        esac""",
        "getent": 'case "$2" in node-b) echo "10.0.0.2 STREAM $2";; login) echo "127.0.1.1 STREAM $2";; esac',
        "ip": '[ -z "$NO_IP" ] || exit 127; case "$*" in *127.*) echo "local $4 dev lo src 127.0.0.1 uid 0";; '
        '*) printf "%s dev ib0 src 10.0.0.1 uid 0 \\n    cache \\n" "$4";; esac',
        "hostname": 'case "$*" in -I) echo "$ADDRESSES";; *) echo 127.0.1.1;; esac',
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
        "ADDRESSES": "172.17.0.1 10.0.0.1 fe80::1",
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


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "10.0.0.1"),  # the address of the way to the second node, not the first of several
        ({"NO_IP": "1", "ADDRESSES": "127.0.1.1 fe80::1 10.0.0.9 10.0.0.1"}, "10.0.0.9"),
        ({"NODES": "1", "SLURM_SUBMIT_HOST": "node-b"}, "10.0.0.1"),
        (
            {"NODES": "1", "SLURM_SUBMIT_HOST": "login", "ADDRESSES": "10.0.0.7"},
            "10.0.0.7",
        ),  # as Debian resolves itself
        ({"HEAD_IP": "10.9.9.9"}, "10.9.9.9"),
    ],
)
def test_the_head_listens_where_the_other_nodes_reach_it(
    slurm: dict[str, str], given: dict[str, str], address: str
) -> None:
    code, calls, errors = script(slurm | given, "recipes/mine.yaml")
    assert code == 7, errors
    (head,) = (call for call in calls if "--head" in call)
    assert f"--node-ip-address={address} " in head
    assert all(f"--address={address}:6379" in call for call in calls if call.startswith("srun") and call != head)


def test_a_head_without_an_address_is_said(slurm: dict[str, str]) -> None:
    given = {"NO_IP": "1", "ADDRESSES": "127.0.1.1 fe80::1"}
    code, calls, errors = script(slurm | given, "recipes/mine.yaml")
    assert code == 1 and "error: no IPv4 address of node-a found. Remedy: set HEAD_IP" in errors and calls == []
