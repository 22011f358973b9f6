"""Memory of a run's processes on the driver's machine, by what they do: the driver sees all that it has started.

Peaks are the kernel's own high-water marks, so nothing between two looks is missed. On a cluster that was there before
the run, the workers are not the driver's: there Ray's node metrics say what they take, and here is the driver alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ROLES = ("driver", "learner", "engine", "rollout", "reward", "ray")
"""learner: ZeRO-3 ranks; engine: vLLM's processes, which hold weights and KV cache; rollout: the actors before them;
ray: everything else of Ray."""

_MARKS = (
    ("ray::RayTrainWorker", "learner"),
    ("VLLM::", "engine"),
    ("ray::RolloutActor", "rollout"),
    ("ray::RewardActor", "reward"),
)
_MIB = 1 << 20


def role_of(title: str) -> str:
    """What a process below the driver is there for, from its title. Example: "ray::RayTrainWorker" -> "learner"."""
    return next((role for mark, role in _MARKS if title.startswith(mark)), "ray")


def memory_metrics() -> dict[str, float]:
    """``memory/<role>_rss_mib``: resident now, summed over the role's processes; ``memory/<role>_peak_mib``: the
    highest that a single one of them has been. Roles without a process are left out. Costs milliseconds."""
    import psutil

    driver = psutil.Process()
    totals: dict[str, float] = {}
    for process in [driver, *driver.children(recursive=True)]:
        try:
            role = "driver" if process.pid == driver.pid else role_of(" ".join(process.cmdline()))
            status = read_status(process.pid)
        except (psutil.NoSuchProcess, OSError):
            continue  # it ended between two looks
        if status:
            rss, peak = f"memory/{role}_rss_mib", f"memory/{role}_peak_mib"
            totals[rss] = totals.get(rss, 0.0) + status["VmRSS"] / _MIB
            totals[peak] = max(totals.get(peak, 0.0), status["VmHWM"] / _MIB)
    return totals


def read_status(pid: int) -> Mapping[str, int]:
    """The memory lines of a Linux process status, in bytes; empty for a process that has none any more (a zombie).

    ``VmRSS`` is resident now, ``VmHWM`` the highest it has been, ``RssAnon`` and ``RssShmem`` its own and shared part.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if line.startswith(("Vm", "Rss")))
    return {name: int(value.split()[0]) << 10 for name, value in pairs}
