"""Ray for a run: a local one that ends with it, or the cluster that the driver was submitted to."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray

from cluster.config import Recipe
from cluster.reaper import Reaper
from data.errors import SetupError
from data.storage import Storage

CHECKOUT = Path(__file__).resolve().parent.parent

# Ray ships the working dir as it is; what a job does not run on stays behind.
EXCLUDES = [".git", ".venv", "**/__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "docs", "tests", "build"]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one part of a recipe asks of the cluster, summed over its actors."""

    part: str
    cpus: float
    gpus: float


def demands(recipe: Recipe, *, on_gpu: bool) -> list[Demand]:
    """CPUs and GPUs per part. On a cluster with GPUs engines and ranks take whole ones."""
    rollouts, learner, rewards = recipe.rollouts, recipe.learner, recipe.rewards
    engine_gpus = rollouts.tensor_parallel if on_gpu else 0
    rank_gpus = 1 if on_gpu and learner.device != "cpu" else 0
    return [
        Demand(part="rollouts", cpus=rollouts.actors * rollouts.cpus_per_actor, gpus=rollouts.actors * engine_gpus),
        Demand(part="learner", cpus=learner.ranks * learner.cpus_per_rank, gpus=learner.ranks * rank_gpus),
        Demand(part="rewards", cpus=rewards.actors * rewards.cpus_per_actor, gpus=0),
    ]


@dataclass(frozen=True, kw_only=True)
class Session:
    """The cluster a run stands on. ``gpus`` is 0 on a machine without any; ``dashboard`` is a URL or ''."""

    local: bool
    nodes: int
    cpus: float
    gpus: float
    dashboard: str


@contextlib.contextmanager
def ray_session(recipe: Recipe, *, verbose: bool = False) -> Iterator[Session]:
    """Connect to the cluster of RAY_ADDRESS (set inside a submitted job), else start Ray here and end it afterwards.

    Raises:
        SetupError: Ray does not start, or the cluster cannot hold the recipe.
    """
    _quiet_libraries()
    reaper = None if os.environ.get("RAY_ADDRESS") else Reaper()
    try:
        dashboard = _connect(recipe, verbose=verbose) if reaper is None else _start_local(recipe, verbose=verbose)
        session = _describe(local=reaper is not None, dashboard=dashboard)
        check_storage(recipe, session)
        check_resources(recipe, session)
        yield session
    finally:
        ray.shutdown()
        if reaper is not None:
            reaper.release()


def _quiet_libraries() -> None:
    """No usage reports, no notices of libraries; set before Ray starts so that every process of the run has it."""
    for name in ("RAY_USAGE_STATS_ENABLED", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        os.environ.setdefault(name, "0" if name.startswith("RAY") else "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray").setLevel(logging.WARNING)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says that tokens are on; they stay on


def _start_local(recipe: Recipe, *, verbose: bool) -> str:
    cpus = sum(demand.cpus for demand in demands(recipe, on_gpu=False))
    try:
        context = ray.init(
            address="local",
            # Ray's CPUs are counters, not cores: threads are bound by the engines, and a laptop must hold every actor.
            num_cpus=max(os.cpu_count() or 1, int(cpus + 0.999)),
            include_dashboard=recipe.run.dashboard,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            configure_logging=verbose,
            runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT)}},
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SetupError(
            f"Ray did not start: {reason}",
            remedy="run `fleming doctor` (ports, shared memory, disk), or try --set run.dashboard=false",
        ) from error
    return str(context.dashboard_url or "")


def _connect(recipe: Recipe, *, verbose: bool) -> str:
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # then the job brings its own working dir
    runtime_env = {} if submitted else {"working_dir": str(CHECKOUT), "excludes": EXCLUDES}
    try:
        context = ray.init(
            log_to_driver=verbose,
            logging_level=logging.WARNING,
            namespace=f"fleming-{recipe.run.name}",
            runtime_env=runtime_env,
        )
    except Exception as error:
        raise SetupError(
            f"the Ray cluster at {os.environ['RAY_ADDRESS']} cannot be reached: {str(error).strip().splitlines()[0]}",
            remedy="check RAY_ADDRESS (and RAY_AUTH_MODE=token where the cluster wants one), or unset it to run here",
        ) from error
    return str(context.dashboard_url or "")


def _describe(*, local: bool, dashboard: str) -> Session:
    resources = ray.cluster_resources()
    return Session(
        local=local,
        nodes=sum(node["Alive"] for node in ray.nodes()),
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        dashboard=f"http://{dashboard}" if dashboard else "",
    )


def check_resources(recipe: Recipe, session: Session) -> None:
    """Refuse a recipe that this cluster can never hold, with what is asked, what is there and what to change."""
    asked = demands(recipe, on_gpu=session.gpus > 0)
    for resource, there in (("cpus", session.cpus), ("gpus", session.gpus)):
        wanted = {demand.part: getattr(demand, resource) for demand in asked}
        if sum(wanted.values()) > there:
            parts = ", ".join(f"{part} {amount:g}" for part, amount in wanted.items() if amount)
            raise SetupError(
                f"the recipe asks for {sum(wanted.values()):g} {resource.upper()} ({parts}), the cluster has {there:g}",
                remedy="lower rollouts.actors, learner.ranks or their cpus_per_*, or add nodes",
            )


def check_storage(recipe: Recipe, session: Session) -> None:
    """Refuse storage on one node's disk when there are several nodes."""
    storage = Storage.open(recipe.run.storage)
    if session.nodes > 1 and storage.is_local and not _is_shared(storage.root):
        raise SetupError(
            f"run.storage {recipe.run.storage!r} is a disk of this node, and the cluster has {session.nodes} nodes",
            remedy="set run.storage to a shared path (NFS, Lustre) or a URI such as s3://bucket/runs",
        )


def _is_shared(path: str) -> bool:
    """True when ``path`` lies on a network file system."""
    import psutil

    mounts = sorted(psutil.disk_partitions(all=True), key=lambda mount: -len(mount.mountpoint))
    kind = next((m.fstype for m in mounts if path.startswith(m.mountpoint.rstrip("/") + "/")), "")
    return kind.startswith(("nfs", "lustre", "ceph", "gpfs", "beegfs", "fuse", "cifs", "smb", "9p", "glusterfs", "efs"))
