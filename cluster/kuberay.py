"""A recipe as a RayJob for KubeRay: a head without work, a fixed learner group, a rollout group that grows and shrinks.

Every half that reserves CPUs has a group of pods to itself, made to measure: none can take a place that another needs.
Reward actors that reserve none have no group, and run wherever Ray puts them.

The job brings its code along, as a ConfigMap that every pod mounts: the image holds dependencies only. Fields are those
of KubeRay 1.5.1 and later (`authOptions`); the operator makes the token and hands it to every pod.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

from cluster.config import Recipe, dump_recipe
from cluster.model_shape import shape_of
from cluster.placement import Part, parts_of
from cluster.ray_jobs import STOP_WAIT_S
from cluster.sizing import GIB, HOST_BASELINE, estimate
from cluster.working_dir import check_size
from data.code import code_hash
from data.errors import ConfigError

ENGINES, LEARNER, REWARDS = "engines", "learner", "rewards"
"""Names of the worker groups, and of the custom resources that mark their nodes."""
CODE_LIMIT = 1 << 20
"""Bytes that a ConfigMap may hold."""
CODE_FOLDER = "/fleming-code"
NAME_LIMIT = 32
"""Characters of a run's name in names of Kubernetes: KubeRay makes longer ones of them, and 63 is their limit."""
HEADER = """\
# Made by `fleming submit --kuberay`. Send it with `kubectl create -f FILE` or `kubectl apply --server-side -f FILE`:
# a plain `kubectl apply` cannot carry the code. To send the run again, first `kubectl delete -f FILE`.
"""
UNKNOWN_MODEL_GIB = 32.0
"""Host memory of a place whose model cannot be looked at from here."""
REWARDS_PER_POD = 8
"""Reward actors of one pod at most."""
REWARD_ACTOR = 0.25 * GIB
"""Host memory of a reward actor beside that of its worker processes (`docs/sizing.md`: 132 MiB measured), bytes."""


@dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """What the recipe does not say.

    ``image`` holds the dependencies. ``claim``: a PersistentVolumeClaim for the run's storage, mounted at ``mount`` on
    every pod; empty when the storage is a URI. ``secret``: a Secret whose keys become environment variables, such as
    those of an object store; empty for none. ``ranks_per_pod``: GPUs (or CPU ranks) of one learner pod at most.
    """

    image: str
    namespace: str = ""
    claim: str = ""
    mount: str = "/mnt/fleming"
    secret: str = ""
    ranks_per_pod: int = 8


@dataclass(frozen=True, kw_only=True)
class _Pod:
    """What a pod of one group gets: whole CPUs, GPUs, memory, and of it the object store (bytes)."""

    cpus: int
    gpus: int
    memory: float
    object_store: float


def ray_job(
    recipe: Recipe,
    command: str,
    package: Path,
    kubernetes: Kubernetes,
    *,
    environment: Mapping[str, str] | None = None,
) -> str:
    """The Kubernetes objects of a run as YAML: the code, and the RayJob that runs ``command``.

    Args:
        package: the zipped working dir.
        environment: variables of the job.

    Raises:
        ConfigError: pods could not share the run's storage, or the code does not fit into a ConfigMap.
    """
    _check_storage(recipe, kubernetes)
    name = _kubernetes_name(recipe.run.name)
    code_name = f"{name}-{_digest(code_hash(), dump_recipe(recipe))}"
    archive = f"fleming-{code_hash()}.zip"
    labels = {"app.kubernetes.io/name": "fleming", "app.kubernetes.io/instance": name}
    meta: dict[str, Any] = {"labels": labels} | ({"namespace": kubernetes.namespace} if kubernetes.namespace else {})
    code = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": code_name, **meta},
        "immutable": True,
        "binaryData": {archive: base64.b64encode(compressed(package)).decode()},
    }
    runtime_env = {
        "working_dir": f"file://{CODE_FOLDER}/{archive}",
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_WAIT_S:.0f}", **(environment or {})},
    }
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, **meta},
        "spec": {
            "entrypoint": command,
            "runtimeEnvYAML": yaml.safe_dump(runtime_env, sort_keys=False),
            "metadata": {"fleming_run": recipe.run.name, "fleming_code": code_hash()},
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": 0},
            "backoffLimit": 0,  # a run is resumed, not begun again
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": _cluster(recipe, kubernetes, code_name),
        },
    }
    return HEADER + yaml.dump_all([code, job], Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def settings_for(recipe: Recipe) -> list[str]:
    """Overrides with which the recipe finds the groups of the generated cluster."""
    device = [] if recipe.learner.device == "cpu" else ["learner.device=cuda"]
    group = REWARDS if recipe.rewards.cpus_per_actor else ""
    rewards = [f"rewards.node_group={group!r}"] if group != recipe.rewards.node_group else []
    return [f"rollouts.node_group={ENGINES}", f"learner.node_group={LEARNER}", *rewards, *device]


def compressed(package: Path) -> bytes:
    """The package with its files compressed, small enough for a ConfigMap.

    Raises:
        ConfigError: it is not.
    """
    packed = BytesIO()
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as to:
        for entry in source.infolist():
            to.writestr(entry.filename, source.read(entry))
    small = package.with_name("compressed.zip")
    small.write_bytes(packed.getvalue())
    check_size(small, limit=CODE_LIMIT)
    return packed.getvalue()


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Equal pods: ``fewest`` at any time, ``most`` when the autoscaler has brought all that the run may ask for."""

    name: str
    pod: _Pod
    fewest: int
    most: int


def _groups(recipe: Recipe, kubernetes: Kubernetes) -> tuple[_Pod, list[_Group]]:
    """The head's pod, and the groups of workers."""
    on_gpu = recipe.learner.device != "cpu"
    rollouts, learner, rewards = parts_of(recipe, on_gpu=on_gpu)
    engine_bytes, rank_bytes, store = _memory(recipe, on_gpu=on_gpu)
    per_pod = next(n for n in range(min(kubernetes.ranks_per_pod, learner.count), 0, -1) if learner.count % n == 0)
    pods = learner.count // per_pod
    groups = [
        _Group(name=ENGINES, pod=_pod(rollouts, 1, engine_bytes, store), fewest=1, most=rollouts.count),
        _Group(name=LEARNER, pod=_pod(learner, per_pod, rank_bytes, store), fewest=pods, most=pods),
    ]
    if rewards.cpus:
        most = recipe.rewards.most_actors
        together = min(most, REWARDS_PER_POD)
        actor_bytes = REWARD_ACTOR + recipe.rewards.workers.processes * recipe.rewards.workers.memory_mib * 2.0**20
        pod = _pod(rewards, together, actor_bytes + GIB / together, GIB)  # a GiB is for Ray itself
        fewest = math.ceil(rewards.count / together)
        groups.append(_Group(name=REWARDS, pod=pod, fewest=fewest, most=math.ceil(most / together)))
    return _Pod(cpus=4, gpus=0, memory=8 * GIB + store, object_store=store), groups


def _cluster(recipe: Recipe, kubernetes: Kubernetes, code: str) -> dict[str, Any]:
    head, groups = _groups(recipe, kubernetes)
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "upscalingMode": "Default", "idleTimeoutSeconds": 300},
        "headGroupSpec": {
            "rayStartParams": {
                "num-cpus": "0",  # the controller runs here and reserves nothing; no engine, no rank
                "dashboard-host": "0.0.0.0",
                "object-store-memory": str(int(head.object_store)),
            },
            "template": _pod_template("head", head, kubernetes, code),
        },
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "replicas": group.fewest,
                "minReplicas": group.fewest,
                "maxReplicas": group.most,
                "rayStartParams": {
                    "resources": f'"{{\\"{group.name}\\": 1}}"',  # KubeRay hands it to a shell
                    "object-store-memory": str(int(group.pod.object_store)),
                },
                "template": _pod_template(group.name, group.pod, kubernetes, code),
            }
            for group in groups
        ],
    }


def _pod(part: Part, places: int, place_bytes: float, store: float) -> _Pod:
    """A pod with room for ``places`` places of a part."""
    return _Pod(
        cpus=max(1, math.ceil(places * part.cpus)),
        gpus=round(places * part.gpus),
        memory=places * place_bytes + store,
        object_store=store,
    )


def _pod_template(name: str, pod: _Pod, kubernetes: Kubernetes, code: str) -> dict[str, Any]:
    amounts = {"cpu": str(pod.cpus), "memory": f"{math.ceil(pod.memory / GIB)}Gi"}
    if pod.gpus:
        amounts["nvidia.com/gpu"] = str(pod.gpus)
    mounts = [{"name": "code", "mountPath": CODE_FOLDER, "readOnly": True}]
    volumes: list[dict[str, Any]] = [{"name": "code", "configMap": {"name": code}}]
    if kubernetes.claim:
        mounts.append({"name": "runs", "mountPath": kubernetes.mount})
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": kubernetes.claim}})
    container: dict[str, Any] = {
        "name": f"ray-{name}",
        "image": kubernetes.image,
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    if kubernetes.secret:
        container["envFrom"] = [{"secretRef": {"name": kubernetes.secret}}]
    spec: dict[str, Any] = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": volumes,
    }
    if pod.gpus:
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {"spec": spec}


def _memory(recipe: Recipe, *, on_gpu: bool) -> tuple[float, float, float]:
    """Host memory in bytes of an engine and of a rank, and of the object store of each node, a fifth to spare.

    On GPUs an engine or a rank holds the weights in host memory while it loads them; a store holds one copy of the
    weights on their way (`docs/architecture.md`).
    """
    try:
        sizing = estimate(recipe, shape_of(recipe.model), on_gpu=on_gpu)
    except ConfigError:
        return UNKNOWN_MODEL_GIB * GIB, UNKNOWN_MODEL_GIB * GIB, UNKNOWN_MODEL_GIB / 2 * GIB
    weights = sizing.object_store
    engine = HOST_BASELINE["engine"] + (weights if sizing.engine.on_gpu else sizing.engine.peak)
    rank = HOST_BASELINE["learner rank"] + (
        weights + sizing.offloaded if sizing.learner.on_gpu else sizing.learner.peak
    )
    return 1.2 * engine + GIB, 1.2 * rank + GIB, 1.2 * weights + GIB


def _check_storage(recipe: Recipe, kubernetes: Kubernetes) -> None:
    """Pods share nothing but a claim or an object store."""
    storage = recipe.run.storage
    if "://" in storage and not storage.startswith("file:"):
        return
    mount = kubernetes.mount.rstrip("/")
    if not kubernetes.claim or not f"{storage.rstrip('/')}/".startswith(f"{mount}/"):
        raise ConfigError(
            f"run.storage {storage!r} is on no storage that the pods share",
            remedy=f"name a claim that many pods may write with --claim and set run.storage below its mount ({mount}), "
            "or set run.storage to a URI such as s3://bucket/runs",
        )


def _kubernetes_name(run: str) -> str:
    """A name as Kubernetes allows it (RFC 1123), short enough for the names that KubeRay makes of it.

    A run whose name had to be changed gets a digest of it: two runs never share a name.
    """
    plain = re.sub(r"[^a-z0-9-]+", "-", run.lower())[:NAME_LIMIT].strip("-")
    return f"fleming-{plain}" if plain == run else f"fleming-{plain[: NAME_LIMIT - 9].strip('-')}-{_digest(run)}"


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=4).hexdigest()
