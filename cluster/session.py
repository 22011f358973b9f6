"""Ray for a run: a local one that ends with it, or the cluster that the driver was submitted to."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.job_config import JobConfig

from cluster.config import Recipe
from cluster.placement import local_cpus, parts_of
from cluster.reaper import Reaper
from cluster.room import wait_for_room
from cluster.working_dir import CHECKOUT
from data.errors import SetupError
from data.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Session:
    """The cluster a run stands on.

    ``hosts`` counts machines: several nodes of Ray on one machine share its disk. ``gpus`` is 0 on a machine without
    any; ``dashboard`` is a URL or ''.
    """

    local: bool
    hosts: int
    cpus: float
    gpus: float
    dashboard: str


@contextlib.contextmanager
def ray_session(recipe: Recipe, say: Callable[[str], None], *, verbose: bool = False) -> Iterator[Session]:
    """Connect to the cluster of RAY_ADDRESS (set inside a submitted job), else start Ray here and end it afterwards.

    Args:
        say: takes a line for the user, while nodes are awaited.

    Raises:
        SetupError: Ray does not start, or the cluster cannot hold the recipe.
    """
    _quiet_libraries()
    reaper = None if os.environ.get("RAY_ADDRESS") else Reaper()
    try:
        dashboard = _connect(recipe, verbose=verbose) if reaper is None else _start_local(recipe, verbose=verbose)
        local = reaper is not None
        check_storage(recipe, _describe(local=local, dashboard=dashboard))
        wait_for_room(recipe, say, local=local)
        session = _describe(local=local, dashboard=dashboard)
        check_storage(recipe, session)  # again: there may be more nodes now
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
    parts = parts_of(recipe, on_gpu=False)
    # Ray Train's page of the dashboard: the learner's ranks by number. Its bookkeeper is an actor that outlives a run,
    # which a Ray of the run's own takes along and a cluster of others would keep.
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    for is_last in (False, True):
        try:
            context = ray.init(
                address="local",
                num_cpus=local_cpus(parts, os.cpu_count() or 1),  # threads are bound by the engines
                resources={part.node_group: 1.0 for part in parts if part.node_group},
                include_dashboard=recipe.run.dashboard,
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                configure_logging=verbose,
                namespace=f"fleming-{recipe.run.name}",
                job_config=JobConfig(metadata={"job_name": recipe.run.name}),  # the name of the job in the dashboard
                runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT)}},
            )
            break
        except Exception as error:
            if "timed out during startup" in str(error) and not is_last:
                ray.shutdown()  # Ray gives its processes 30 s, which is little for a machine that has much else to do
                continue
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SetupError(
                f"Ray did not start: {reason}",
                remedy="run `fleming doctor` (ports, shared memory, disk), or try --set run.dashboard=false",
            ) from error
    return str(context.dashboard_url or "")


def _connect(recipe: Recipe, *, verbose: bool) -> str:
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # then the job brings its own working dir
    runtime_env = {} if submitted else {"working_dir": str(CHECKOUT)}
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
        hosts=len({node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}),
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        dashboard=f"http://{dashboard}" if dashboard else "",
    )


def check_storage(recipe: Recipe, session: Session) -> None:
    """Refuse storage that other nodes do not see, and storage that Ray deletes with the job's working dir.

    Raises:
        SetupError: says which, and where to put it.
    """
    storage = Storage.open(recipe.run.storage)
    if not storage.is_local:
        return
    remedy = "set run.storage to a shared path (NFS, Lustre) or a URI such as s3://bucket/runs"
    if session.hosts > 1 and not _is_shared(storage.root):
        raise SetupError(
            f"run.storage {recipe.run.storage!r} is a disk of this node, and the cluster has {session.hosts} nodes",
            remedy=remedy,
        )
    if not session.local and Path(storage.root).resolve().is_relative_to(CHECKOUT):
        raise SetupError(
            f"run.storage {recipe.run.storage!r} lies in the job's working dir, which Ray deletes", remedy=remedy
        )


def _is_shared(path: str) -> bool:
    """True when ``path`` lies on a network file system."""
    import psutil

    mounts = sorted(psutil.disk_partitions(all=True), key=lambda mount: -len(mount.mountpoint))
    kind = next((m.fstype for m in mounts if path.startswith(m.mountpoint.rstrip("/") + "/")), "")
    return kind.startswith(("nfs", "lustre", "ceph", "gpfs", "beegfs", "fuse", "cifs", "smb", "9p", "glusterfs", "efs"))
