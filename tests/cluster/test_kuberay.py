"""The Kubernetes objects of a run: valid, with the code inside, and with the resources that the recipe asks for."""

from __future__ import annotations

import base64
import copy
import json
import re
import shlex
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster import kuberay, room
from cluster.cli import app
from cluster.config import load_recipe
from cluster.kuberay import Kubernetes, ray_job
from cluster.placement import parts_of, without_room
from cluster.working_dir import CHECKOUT
from data.code import ROOMS, hash_sources
from data.errors import ConfigError

RECIPE = str(CHECKOUT / "recipes" / "quickstart.yaml")
SCHEMA = yaml.safe_load((Path(__file__).parent / "rayjob.schema.yaml").read_text())
KUBERNETES = "1.33"
SETTINGS = ("run.storage=s3://bucket/runs", "rollouts.actors=4", "rollouts.tensor_parallel=2", "learner.ranks=12")


def generate(*overrides: str, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    pairs = [part for setting in overrides for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["submit", RECIPE, "--kuberay", "--image", "fleming-gpu:1", *pairs, *options])
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    return generate(*SETTINGS)


def groups(objects: list[dict[str, Any]]) -> dict[str, Any]:
    cluster = objects[1]["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def check_pod(template: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, **template}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        (SETTINGS, ()),
        ((*SETTINGS, "learner.device=cpu"), ("--namespace", "rl", "--secret", "s3-keys")),
        ((*SETTINGS[1:], "run.storage=/mnt/runs/here"), ("--claim", "runs:/mnt/runs")),
    ],
)
def test_every_object_is_valid(overrides: tuple[str, ...], options: tuple[str, ...]) -> None:
    code, job = generate(*overrides, options=options)
    kubernetes_validate.validate(code, KUBERNETES, strict=True)
    jsonschema.validate(job, SCHEMA)
    for group in groups([code, job]).values():
        check_pod(group["template"])


def test_the_check_can_fail(objects: list[dict[str, Any]]) -> None:
    job = copy.deepcopy(objects[1])
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(job, SCHEMA)
    template = copy.deepcopy(groups(objects)["head"]["template"])
    template["spec"]["containers"][0]["resources"]["limit"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check_pod(template)


def test_the_code_that_is_sent_is_this_code(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    code, job = objects
    ((name, content),) = code["binaryData"].items()
    packed = base64.b64decode(content)
    assert len(packed) < 2**20
    with zipfile.ZipFile(BytesIO(packed)) as archive:
        archive.extractall(tmp_path)
    assert hash_sources(tmp_path) == hash_sources(CHECKOUT) == job["spec"]["metadata"]["fleming_code"]
    assert {path.name for path in tmp_path.iterdir()} >= {*ROOMS, "recipes", "pyproject.toml"}
    assert not {path.name for path in tmp_path.iterdir()} & {".git", "tests", "docs", "bench"}
    working_dir = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["working_dir"]
    volumes = groups(objects)["engines"]["template"]["spec"]["volumes"]
    mounts = groups(objects)["engines"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert volumes[0]["configMap"]["name"] == code["metadata"]["name"]
    assert working_dir == f"file://{mounts[0]['mountPath']}/{name}"


def test_the_groups_hold_the_recipe_and_the_head_takes_no_work(objects: list[dict[str, Any]]) -> None:
    words = shlex.split(objects[1]["spec"]["entrypoint"])
    assert words[:5] == ["python", "-m", "cluster", "run", "recipes/quickstart.yaml"]
    told = load_recipe(RECIPE, [word for word in words if "=" in word])  # what the job will run
    by_name = groups(objects)
    assert by_name["head"]["rayStartParams"]["num-cpus"] == "0"
    engines, learner = by_name["engines"], by_name["learner"]
    assert (engines["minReplicas"], engines["maxReplicas"]) == (1, 4)
    assert learner["minReplicas"] == learner["maxReplicas"] == learner["replicas"] == 2

    parts = parts_of(told, on_gpu=True)
    everything = [offered(group) for group in (engines, learner) for _ in range(group["maxReplicas"])]
    assert without_room(parts, everything) == {}
    assert without_room(parts, everything[1:]) == {"rollouts": 1}
    assert without_room(parts, everything[:-1]) == {"learner": 6}
    assert objects[1]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def offered(group: dict[str, Any]) -> dict[str, float]:
    """What a pod of a group offers, as Ray counts it."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    marks = json.loads(shlex.split(group["rayStartParams"]["resources"])[0])
    return {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0)), **marks}


CPUS = st.sampled_from([0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 3.0])


@given(
    engines=st.tuples(st.integers(1, 6), st.integers(1, 4), CPUS),
    ranks=st.tuples(st.integers(1, 16), CPUS, st.sampled_from(["cpu", "auto", "cuda"])),
    rewards=st.tuples(st.integers(1, 20), st.integers(0, 20), CPUS | st.just(0.0), st.sampled_from(["", "mine"])),
    per_pod=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None)
def test_the_pods_hold_what_the_run_asks_for_whoever_takes_his_place_first(
    engines: tuple[int, int, float], ranks: tuple[int, float, str], rewards: tuple[int, int, float, str], per_pod: int
) -> None:
    names = ["rollouts.actors", "rollouts.tensor_parallel", "rollouts.cpus_per_actor"]
    names += ["learner.ranks", "learner.cpus_per_rank", "learner.device"]
    names += ["rewards.actors", "rewards.max_actors", "rewards.cpus_per_actor", "rewards.node_group"]
    actors, more, *rest = rewards
    values = (*engines, *ranks, actors, actors + more if more else 0, *rest)
    asked = [f"{name}={value!r}" for name, value in zip(names, values, strict=True)]
    recipe = load_recipe(RECIPE, asked)
    specs = kuberay._cluster(recipe, Kubernetes(image="i", ranks_per_pod=per_pod), "code")["workerGroupSpecs"]
    pods = {spec["groupName"]: [offered(spec)] * int(spec["maxReplicas"]) for spec in specs}
    told = load_recipe(RECIPE, [*asked, *kuberay.settings_for(recipe)])  # what the job will run
    everything = [node for nodes in pods.values() for node in nodes]
    parts, missing = room._fit(told, everything)
    assert missing == {}
    for part in parts:
        if not part.place:
            continue
        # Alone in its group: no other part can take its room. With every reward actor that the pool may grow to.
        grown = replace(part, count=told.rewards.most_actors) if part.name == "rewards" else part
        assert without_room([grown], pods[part.node_group]) == {}
        assert [other.name for other in parts if other.node_group == part.node_group] == [part.name]
    fewest = {spec["groupName"]: int(spec["minReplicas"]) for spec in specs}
    if told.rewards.cpus_per_actor:
        (reward_part,) = (part for part in parts if part.name == "rewards")
        assert without_room([reward_part], pods["rewards"][: fewest["rewards"]]) == {}
    assert fewest["learner"] == len(pods["learner"])


def test_reward_actors_that_reserve_cpus_get_pods_with_the_memory_of_their_workers() -> None:
    own = ("rewards.actors=3", "rewards.max_actors=20", "rewards.cpus_per_actor=0.5")
    code, job = generate(*SETTINGS, *own, "rewards.workers.processes=2", "rewards.workers.memory_mib=2048")
    rewards = groups([code, job])["rewards"]
    assert (rewards["minReplicas"], rewards["maxReplicas"]) == (1, 3)
    amounts = rewards["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert amounts == {"cpu": "4", "memory": "36Gi"}  # 8 x (0.5 CPU, 2 x 2 GiB + 0.25 GiB), and 2 GiB for Ray
    assert "rewards.node_group='rewards'" in shlex.split(job["spec"]["entrypoint"])
    check_pod(rewards["template"])
    assert "rewards" not in groups(generate(*SETTINGS))


def test_runs_of_the_same_code_have_objects_of_their_own() -> None:
    names = [
        (code["metadata"]["name"], job["metadata"]["name"])
        for code, job in (
            generate(*SETTINGS, *more)
            for more in (
                ("run.name=mine",),
                ("run.name=mine", "loop.steps=7"),
                ("run.name=Mine",),
                (f"run.name={'m' * 40}1",),
                (f"run.name={'m' * 40}2",),
            )
        )
    ]
    assert len({code for code, _ in names}) == 5
    assert names[0][1] == names[1][1] == "fleming-mine" and len({job for _, job in names}) == 4
    again = generate(*SETTINGS, "run.name=mine")[0]["metadata"]["name"]
    assert again == names[0][0], "the same run again has the same name"
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for pair in names for name in pair)
    assert max(len(job) for _, job in names) <= 40


def test_storage_that_pods_do_not_share_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "fleming.zip"
    for storage, claim in (("~/fleming-runs", ""), ("/mnt/fleming/runs", ""), ("/elsewhere", "runs")):
        with pytest.raises(ConfigError, match="on no storage that the pods share"):
            ray_job(load_recipe(RECIPE, [f"run.storage={storage}"]), "x", package, Kubernetes(image="i", claim=claim))


def test_an_image_is_asked_for() -> None:
    result = CliRunner().invoke(app, ["submit", RECIPE, "--kuberay"])
    assert result.exit_code == 1 and "--kuberay needs --image" in result.stderr


def test_the_environment_of_the_job_is_kept() -> None:
    _, job = generate(*SETTINGS, options=("--env", "HF_HUB_OFFLINE=0"))
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["HF_HUB_OFFLINE"] == "0"
