"""The fleming commands for a cluster: submit, jobs, logs, stop, resume."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.arguments import AddressOption, RecipeArgument, SetOption, refuse_ignored
from cluster.monitoring.sight import plain
from cluster.plain_errors import plain_errors
from cluster.ray_jobs import DEFAULT_ADDRESS, INTERRUPTED, Job, RayJobs, new_job_id
from cluster.working_dir import entrypoint, pack, sent_recipe
from data.code import code_hash
from data.credentials import refuse_credentials
from data.errors import ConfigError

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="a job's id, as `fleming jobs` lists it")]
EnvOption = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME=VALUE", help="environment variable of the job (repeat as needed; no secrets)"),
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="do not follow the log; print the job's id and leave")]
JobIdOption = Annotated[str, typer.Option("--job-id", help="name the job yourself", show_default="says run and time")]

_KUBERAY: Any = {"rich_help_panel": "KubeRay"}


def submit(
    context: typer.Context,
    recipe: RecipeArgument,
    address: AddressOption = DEFAULT_ADDRESS,
    overrides: SetOption = None,
    env: EnvOption = None,
    no_wait: NoWaitOption = False,
    job_id: JobIdOption = "",
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last commit of this run")] = False,
    kuberay: Annotated[
        bool, typer.Option("--kuberay", help="send nothing; print a KubeRay RayJob made from the recipe", **_KUBERAY)
    ] = False,
    image: Annotated[str, typer.Option("--image", help="image with the dependencies", **_KUBERAY)] = "",
    namespace: Annotated[str, typer.Option("--namespace", help="Kubernetes namespace", **_KUBERAY)] = "",
    claim: Annotated[
        str,
        typer.Option(
            "--claim", metavar="NAME[:MOUNT]", help="volume claim for run.storage; MOUNT: /mnt/fleming", **_KUBERAY
        ),
    ] = "",
    secret: Annotated[
        str, typer.Option("--secret", help="Secret whose keys become environment variables of every pod", **_KUBERAY)
    ] = "",
    ranks_per_pod: Annotated[
        int, typer.Option("--ranks-per-pod", min=1, help="learner ranks of one pod at most", **_KUBERAY)
    ] = 8,
) -> None:
    """Run a recipe on a cluster: send this checkout as a Ray job, follow its log, exit with its exit code.

    Ctrl-C leaves the job running. The cluster needs Fleming's dependencies (its image) and no code.
    """
    from cluster.config import load_recipe

    with plain_errors(), tempfile.TemporaryDirectory() as folder:
        pods_only = ("--image", "--namespace", "--claim", "--secret", "--ranks-per-pod")
        refuse_ignored(context, not kuberay, "without --kuberay", *pods_only)
        refuse_ignored(context, kuberay, "with --kuberay", "--address", "--no-wait", "--job-id")
        resolved = load_recipe(recipe, overrides)
        package = pack(Path(folder))
        arguments = ["run", sent_recipe(recipe, package), *_settings(overrides), *(["--resume"] if resume else [])]
        if kuberay:
            from cluster.kuberay import Kubernetes, ray_job, settings_for

            if not image:
                raise ConfigError("--kuberay needs --image", remedy="build it (docs/operations.md) and name it")
            name, _, mount = claim.partition(":")
            pods = Kubernetes(
                image=image,
                namespace=namespace,
                claim=name,
                mount=mount or "/mnt/fleming",
                secret=secret,
                ranks_per_pod=ranks_per_pod,
            )
            command = entrypoint(*arguments, *_settings(settings_for(resolved)))
            typer.echo(ray_job(resolved, command, package, pods, environment=_environment(env)), nl=False)
            return
        code = _send(address, arguments, package, resolved.run.name, env, job_id=job_id, no_wait=no_wait)
    raise typer.Exit(code)


def resume(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="the run's directory, <run.storage>/<run.name>: a path or URI")
    ],
    address: Annotated[
        str,
        typer.Option("--address", metavar="URL", help="go on as a job on the cluster with this dashboard, not here"),
    ] = "",
    overrides: SetOption = None,
    env: EnvOption = None,
    no_wait: NoWaitOption = False,
    job_id: JobIdOption = "",
) -> None:
    """Go on with a run from its last commit. Its recipe is read from the run's own storage.

    With --address the path or URI is read on the cluster; this machine need not reach it.
    """
    with plain_errors():
        refuse_ignored(context, not address, "without --address", "--env", "--no-wait", "--job-id")
        refuse_credentials("RUN", run)
        if not address:
            from cluster.pipeline import run_recipe
            from cluster.starting import stored_recipe

            run_recipe(stored_recipe(run, overrides), resume=True)
            return
        with tempfile.TemporaryDirectory() as folder:
            package = pack(Path(folder))
            name = run.rstrip("/").rpartition("/")[2]
            arguments = ["resume", run, *_settings(overrides)]
            code = _send(address, arguments, package, name, env, job_id=job_id, no_wait=no_wait)
    raise typer.Exit(code)


def jobs(
    address: AddressOption = DEFAULT_ADDRESS,
    everything: Annotated[bool, typer.Option("--all", help="also jobs that are none of Fleming's")] = False,
) -> None:
    """List the jobs of a cluster, the newest first."""
    with plain_errors():
        listed = [job for job in RayJobs(address).list() if everything or job.run or "-m cluster" in job.command]
    table = Table(box=None, pad_edge=False)
    for column in ("job", "status", "exit", "run", "started", "took"):
        table.add_column(column, overflow="fold")
    for job in listed:
        code = "" if job.exit_code is None else str(job.exit_code)
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started)) if job.started else ""
        # Others name their jobs as they like: text, never markup or escape sequences.
        shown = (job.id, job.status.lower(), code, job.run, began, _took(job))
        table.add_row(*(Text(plain(text)) for text in shown))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table if listed else "no jobs")


def logs(job_id: JobArgument, address: AddressOption = DEFAULT_ADDRESS) -> None:
    """Show what a job prints, from its first line to its end, and exit with its exit code."""
    with plain_errors():
        code = _follow(RayJobs(address), job_id)
    raise typer.Exit(code)


def stop(job_id: JobArgument, address: AddressOption = DEFAULT_ADDRESS) -> None:
    """End a job in good order: every process of it goes, what was committed stays and can be resumed."""
    with plain_errors():
        client = RayJobs(address)
        before = client.get(job_id)
        job = before if before.is_final else client.stop(job_id)
        typer.echo(f"job {job_id} {'had' if before.is_final else 'has'} ended: {job.status.lower()}")


def _settings(overrides: list[str] | None) -> list[str]:
    """Overrides as words of a command that others may read."""
    from cluster.config import apply_override, refuse_credentials_in

    document: dict[str, Any] = {}
    for override in overrides or []:
        apply_override(document, override)
    refuse_credentials_in(document)
    return [part for override in overrides or [] for part in ("--set", override)]


def _environment(pairs: list[str] | None) -> dict[str, str]:
    environment = {}
    for pair in pairs or []:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ConfigError(f"--env {pair!r} is not of the form NAME=VALUE", remedy="write --env HF_HUB_OFFLINE=1")
        environment[name] = value
    return environment


def _send(
    address: str, arguments: list[str], package: Path, run: str, env: list[str] | None, *, job_id: str, no_wait: bool
) -> int:
    """Submit, say so, and follow unless told not to; returns the exit code."""
    client = RayJobs(address)
    submitted = client.submit(
        entrypoint(*arguments),
        job_id=job_id or new_job_id(run),
        working_dir=str(package),
        environment=_environment(env),
        metadata={"fleming_run": run, "fleming_code": code_hash()},
    )
    if no_wait:
        typer.echo(submitted)
        return 0
    where = "" if client.address == DEFAULT_ADDRESS else f" --address {client.address}"
    _say(f"job      {submitted} on {client.address}")
    _say(f"         stop it with: fleming stop {submitted}{where}")
    return _follow(client, submitted)


def _follow(client: RayJobs, job_id: str) -> int:
    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    client.get(job_id)  # no such job is said at once
    try:
        job = client.follow(job_id, write)
    except KeyboardInterrupt:
        _say(f"\njob {job_id} goes on; look again with `fleming logs {job_id}`, end it with `fleming stop {job_id}`")
        return INTERRUPTED
    if job.status == "FAILED" and job.exit_code is None:  # its command never ran: the log says nothing
        _say(f"error: job {job_id} could not start: {job.message}")
    _say(f"job {job_id}: {job.status.lower()}, exit code {job.code}, {_took(job)}")
    return job.code


def _say(text: str) -> None:
    """Our own words go beside the job's output, not into it."""
    typer.echo(text, err=True)


def _took(job: Job) -> str:
    if job.started is None:
        return ""
    seconds = int((job.ended or time.time()) - job.started)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
