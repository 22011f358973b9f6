"""The Kubernetes objects of a run: valid, with the code inside, and with the resources that the recipe asks for."""

from __future__ import annotations

import base64
import copy
import json
import shlex
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

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


def generate(*settings: str, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    pairs = [part for setting in settings for part in ("--set", setting)]
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
    ("settings", "options"),
    [
        (SETTINGS, ()),
        ((*SETTINGS, "learner.device=cpu"), ("--namespace", "rl", "--secret", "s3-keys")),
        ((*SETTINGS[1:], "run.storage=/mnt/runs/here"), ("--claim", "runs:/mnt/runs")),
    ],
)
def test_every_object_is_valid(settings: tuple[str, ...], options: tuple[str, ...]) -> None:
    code, job = generate(*settings, options=options)
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

    def nodes(group: dict[str, Any]) -> list[dict[str, float]]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        marks = json.loads(shlex.split(group["rayStartParams"]["resources"])[0])
        offered = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"]), **marks}
        return [offered] * int(group["maxReplicas"])

    parts = parts_of(told, on_gpu=True)
    everything = nodes(engines) + nodes(learner)
    assert without_room(parts, everything) == {}
    assert without_room(parts, everything[1:]) == {"rollouts": 1}
    assert without_room(parts, everything[:-1]) == {"learner": 6}
    assert objects[1]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


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
