"""A recipe as a RayJob for KubeRay: a head without work, a fixed learner group, a rollout group that grows and shrinks.

The job brings its code along, as a ConfigMap that every pod mounts: the image holds dependencies only. Fields are those
of KubeRay 1.5.1 and later (`authOptions`); the operator makes the token and hands it to every pod.
"""

from __future__ import annotations

import base64
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

from cluster.config import Recipe
from cluster.model_shape import shape_of
from cluster.placement import Part, parts_of
from cluster.ray_jobs import STOP_WAIT_S
from cluster.sizing import GIB, HOST_BASELINE, estimate
from cluster.working_dir import check_size
from data.code import code_hash
from data.errors import ConfigError

ENGINES, LEARNER = "engines", "learner"
"""Names of the worker groups, and of the custom resources that mark their nodes."""
CODE_LIMIT = 1 << 20
"""Bytes that a ConfigMap may hold."""
CODE_FOLDER = "/fleming-code"
HEADER = """\
# Made by `fleming submit --kuberay`. Send it with `kubectl create -f FILE` or `kubectl apply --server-side -f FILE`:
# a plain `kubectl apply` cannot carry the code. To send the run again, first `kubectl delete -f FILE`.
"""
UNKNOWN_MODEL_GIB = 32.0
"""Host memory of a place whose model cannot be looked at from here."""


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
    code_name = f"{name}-{code_hash()[:8]}"
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
    return [f"rollouts.node_group={ENGINES}", f"learner.node_group={LEARNER}", *device]


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


def _cluster(recipe: Recipe, kubernetes: Kubernetes, code: str) -> dict[str, Any]:
    on_gpu = recipe.learner.device != "cpu"
    rollouts, learner, _ = parts_of(recipe, on_gpu=on_gpu)
    engine_bytes, rank_bytes, store = _memory(recipe, on_gpu=on_gpu)
    per_pod = next(n for n in range(min(kubernetes.ranks_per_pod, learner.count), 0, -1) if learner.count % n == 0)
    head = _Pod(cpus=4, gpus=0, memory=8 * GIB + store, object_store=store)
    engine_pod, learner_pod = _pod(rollouts, 1, engine_bytes, store), _pod(learner, per_pod, rank_bytes, store)
    pods = learner.count // per_pod
    return {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "upscalingMode": "Default", "idleTimeoutSeconds": 300},
        "headGroupSpec": {
            "rayStartParams": {
                "num-cpus": "0",  # the controller runs here and reserves nothing; no engine, no rank
                "dashboard-host": "0.0.0.0",
                "object-store-memory": str(int(store)),
            },
            "template": _pod_template("head", head, kubernetes, code),
        },
        "workerGroupSpecs": [
            {
                "groupName": name,
                "replicas": fewest,
                "minReplicas": fewest,
                "maxReplicas": most,
                "rayStartParams": {
                    "resources": f'"{{\\"{name}\\": 1}}"',  # KubeRay hands it to a shell
                    "object-store-memory": str(int(store)),
                },
                "template": _pod_template(name, pod, kubernetes, code),
            }
            for name, pod, fewest, most in (
                (ENGINES, engine_pod, 1, rollouts.count),
                (LEARNER, learner_pod, pods, pods),
            )
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
    rank = HOST_BASELINE["learner rank"] + (weights if sizing.learner.on_gpu else sizing.learner.peak)
    if sizing.learner.on_gpu and recipe.learner.offload_optimizer:
        rank += 6 * weights / recipe.learner.ranks  # fp32 masters and Adam's two moments beside bf16 weights
    if sizing.learner.on_gpu and recipe.learner.offload_parameters:
        rank += weights / recipe.learner.ranks
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
    """A name as Kubernetes allows it (RFC 1123), short enough for the names that KubeRay makes of it."""
    return f"fleming-{re.sub(r'[^a-z0-9-]+', '-', run.lower())}"[:40].strip("-")
