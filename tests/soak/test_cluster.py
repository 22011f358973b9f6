"""A cluster of several raylets with token authentication: submit in both ways, fail, stop, resume.

The nodes have the dependencies and no code: what runs there was sent. All runs share one warm-up.
"""

from __future__ import annotations

import base64
import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from cluster.run_store import RunStore
from data.code import hash_sources
from tests.integration import runs
from tests.integration.clusters import TokenCluster, token_cluster

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

RECIPE = "recipes/quickstart.yaml"
# The fewest steps with which a policy keeps to the format often enough for a signal.
SMALL = (
    "warm_up.steps=60",
    "warm_up.batch_size=16",
    "loop.questions_per_step=8",
    "loop.samples_per_question=4",
    "loop.max_refill_rounds=6",
    "loop.stop_after_barren_steps=9",
    "loop.checkpoint_every=1",
    "loop.evaluation.every=0",
    "loop.evaluation.questions=2",
    "loop.evaluation.samples=1",
    "rollouts.node_group=engines",
)
RUNNING = ("VLLM", "RolloutActor", "RewardActor", "RayTrainWorker", "reward_service", "cluster run", "cluster resume")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenCluster]:
    nodes = ['--num-cpus=1 --resources={"engines":1}', '--num-cpus=1 --resources={"learner":1}']
    with token_cluster(tmp_path_factory.mktemp("cluster"), nodes) as it:
        yield it


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def settings(storage: Path, name: str, *more: str) -> list[str]:
    pairs = (*SMALL, f"run.storage={storage}", f"run.name={name}", *more)
    return [part for pair in pairs for part in ("--set", pair)]


def from_warm_up(storage: Path) -> tuple[str, ...]:
    return (f"model.path={storage / 'first/models/warm_up'}", "model.tiny=null", "warm_up.steps=0")


def test_a_job_that_fails_gives_its_error_and_exit_code(cluster: TokenCluster, storage: Path) -> None:
    began = time.monotonic()
    done = cluster.fleming("submit", RECIPE, "--address", cluster.address, *settings(storage, "big", "learner.ranks=7"))
    runs.say(f"refused after {time.monotonic() - began:.0f} s:\n{done.stdout}")
    assert done.returncode == 1
    assert "the cluster cannot hold the recipe" in done.stdout and "7 x (1 CPU)" in done.stdout
    assert "failed, exit code 1" in done.stderr
    assert not (storage / "big").exists()
    listed = cluster.fleming("jobs", "--address", cluster.address).stdout
    assert "failed" in listed and "fleming-big-" in listed


@pytest.fixture(scope="module")
def first(cluster: TokenCluster, storage: Path) -> RunStore:
    """A run by `fleming submit`, to its end."""
    began = time.monotonic()
    done = cluster.fleming(
        "submit", RECIPE, "--address", cluster.address, *settings(storage, "first", "loop.steps=2"), timeout_s=1200
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert "before RL" in done.stdout, "the job's log was followed to its end"
    assert "succeeded, exit code 0" in done.stderr
    runs.say(f"fleming submit, warm-up and two steps: {time.monotonic() - began:.0f} s")
    return runs.store(storage, "first")


def test_fleming_submit_runs_a_recipe_to_its_end_with_the_code_that_was_sent(first: RunStore, storage: Path) -> None:
    commit = first.last_commit()
    assert commit is not None and commit.step == 2
    sent = hash_sources(runs.CHECKOUT)
    assert yaml.safe_load((storage / "first/run.yaml").read_text())["code"] == sent
    loaded = [event for event in runs.events(storage, "first") if event["event"] == "code_loaded"]
    parts = [part for event in loaded for part in event["parts"]]
    assert all(event["code"] == sent for event in loaded)
    for part in ("driver", "rollout-0", "reward-0", "learner rank 0"):
        assert any(part in name for name in parts), parts


def test_ray_job_submit_runs_it_too(cluster: TokenCluster, storage: Path, first: RunStore) -> None:
    more = (*from_warm_up(storage), "loop.steps=1")
    done = cluster.run(
        *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.address),
        *("--working-dir", ".", "--", "python", "-m", "cluster", "run", RECIPE, *settings(storage, "second", *more)),
        timeout_s=900,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    commit = runs.store(storage, "second").last_commit()
    assert commit is not None and commit.step == 1


def test_stop_leaves_no_process_and_resume_goes_on_from_the_storage(
    cluster: TokenCluster, storage: Path, first: RunStore
) -> None:
    more = (*from_warm_up(storage), "loop.steps=60")
    submit = ("submit", RECIPE, "--address", cluster.address, "--no-wait", *settings(storage, "third", *more))
    job = cluster.fleming(*submit).stdout.strip()
    store = runs.store(storage, "third")
    runs.wait_until(lambda: store.last_commit() is not None, 600, "a first commit")
    assert working(cluster)
    began = time.monotonic()
    stopped = cluster.fleming("stop", job, "--address", cluster.address)
    assert stopped.returncode == 0 and "has ended: stopped" in stopped.stdout, stopped.stdout + stopped.stderr
    runs.wait_until(lambda: not working(cluster), 60, "the end of every process of the job")
    runs.say(f"stopped, and every process gone, after {time.monotonic() - began:.1f} s")
    assert cluster.fleming("logs", job, "--address", cluster.address).returncode == 130
    commit = store.last_commit()
    assert commit is not None

    steps = commit.step + 1
    resume = ("resume", str(storage / "third"), "--address", cluster.address, "--set", f"loop.steps={steps}")
    done = cluster.fleming(*resume, timeout_s=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    lineage = [(row["step"], row["attempt"]) for row in store.committed_metrics()]
    assert lineage == [(step, 1 if step <= commit.step else 2) for step in range(1, steps + 1)]


def working(cluster: TokenCluster) -> list[str]:
    """Command lines of what runs for a job on the cluster; Ray's own idle workers are none of it."""
    found = []
    for process in cluster.members():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if any(name in line for name in RUNNING):
            found.append(line)
    return found


def test_the_metadata_says_run_and_code(cluster: TokenCluster, first: RunStore) -> None:
    script = "import json, sys; from ray.job_submission import JobSubmissionClient as C; "
    script += "print(json.dumps([[j.submission_id, j.metadata] for j in C(sys.argv[1]).list_jobs()]))"
    listed = json.loads(cluster.run(sys.executable, "-c", script, cluster.address).stdout.splitlines()[-1])
    job = next(metadata for name, metadata in listed if name and name.startswith("fleming-first-"))
    assert job == {"fleming_run": "first", "fleming_code": hash_sources(runs.CHECKOUT)}


def test_the_job_made_for_kubernetes_runs_here_too(
    cluster: TokenCluster, storage: Path, first: RunStore, tmp_path: Path
) -> None:
    """What KubeRay's submitter does, with the code from the ConfigMap at the place of its mount."""
    more = (*from_warm_up(storage), "loop.steps=1", "learner.device=cpu")
    options = ("--kuberay", "--image", "any", "--claim", f"runs:{storage}")
    made = cluster.fleming("submit", RECIPE, *options, *settings(storage, "kuberay", *more))
    assert made.returncode == 0, made.stderr
    code, job = yaml.safe_load_all(made.stdout)
    ((name, content),) = code["binaryData"].items()
    (tmp_path / name).write_bytes(base64.b64decode(content))
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"]) | {"working_dir": f"file://{tmp_path / name}"}
    command = (sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.address)
    given = ("--runtime-env-json", json.dumps(environment), "--metadata-json", json.dumps(job["spec"]["metadata"]))
    done = cluster.run(*command, *given, "--", *shlex.split(job["spec"]["entrypoint"]), timeout_s=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert runs.store(storage, "kuberay").last_commit() is not None
    recipe = yaml.safe_load((storage / "kuberay/run.yaml").read_text())["recipe"]
    assert (recipe["rollouts"]["node_group"], recipe["learner"]["node_group"]) == ("engines", "learner")
