"""What is checked before an engine starts, and what is said when it does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from actors.config import RolloutConfig
from actors.engine_setup import (
    base_directory,
    check_update,
    cpu_threads,
    engine_args,
    engine_environment,
    read_model_files,
    root_cause,
    start_failure,
)
from actors.ownership import descendants, process_stamp, watch_owner
from data.errors import EngineError
from data.low_rank import weight_files
from data.wire import WeightBucket, WeightUpdate
from learner.config import LoraConfig
from tests.tiny_model import END, EOS, build_model, learnt_adapter, published, save_model, update_of


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(build_model(0), tmp_path_factory.mktemp("model"))


def test_a_model_directory_says_its_tensors_and_every_eos(model_dir: str) -> None:
    model = read_model_files(model_dir)
    assert model.eos_token_ids == (EOS, END)
    assert model.tied and "lm_head.weight" not in model.tensors
    assert model.tensors["model.embed_tokens.weight"] == (300, 64)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_a_missing_file_is_named(model_dir: str, tmp_path: Path, missing: str) -> None:
    for file in Path(model_dir).iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EngineError, match=r"safetensors file in|is missing in"):
        read_model_files(str(tmp_path))


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
def test_an_unreadable_file_is_one_line(model_dir: str, tmp_path: Path, broken: str) -> None:
    for file in Path(model_dir).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 40 if file.name == broken else None])
    with pytest.raises(EngineError, match="is unreadable") as caught:
        read_model_files(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_directory_is_named() -> None:
    with pytest.raises(EngineError, match="does not exist: nowhere"):
        read_model_files("nowhere")


def test_updates_that_do_not_fit_are_refused_by_name(model_dir: str) -> None:
    model = read_model_files(model_dir)
    update = update_of(build_model(1), 1)
    check_update(update, model)
    norm = "model.norm.weight"
    with pytest.raises(EngineError, match=f"'missing': '{norm}'"):
        check_update(update_of(build_model(1), 1, leave_out=norm), model)
    slots = update.buckets[0].slots
    for kind, changed in {
        "unknown": replace(slots[0], name="model.extra.weight"),
        "misshapen": replace(slots[0], shape=slots[0].shape[::-1]),
        "repeated": slots[-1],
    }.items():
        bucket = WeightBucket(slots=(*slots, changed), nbytes=update.buckets[0].nbytes, ref=None)
        with pytest.raises(EngineError, match=kind):
            check_update(replace(update, buckets=(bucket, *update.buckets[1:])), model)


def test_a_tied_output_layer_may_be_sent_or_left_out(model_dir: str) -> None:
    tied = read_model_files(model_dir)
    with_head = update_of(build_model(1, tied=False), 1)
    check_update(with_head, tied)
    untied = replace(tied, tied=False)
    with pytest.raises(EngineError, match="unknown"):
        check_update(with_head, untied)


def adapter_update(model_dir: str) -> WeightUpdate:
    model = learnt_adapter(build_model(0), LoraConfig(rank=2, targets=("q_proj", "down_proj")), seed=1)
    return published(model, 1, base=model_dir, bucket_bytes=1)  # each factor in a bucket of its own


def test_an_adapter_must_bring_both_factors_of_every_weight_it_changes(model_dir: str) -> None:
    model, update = read_model_files(model_dir), adapter_update(model_dir)
    check_update(update, model)
    lost = "model.layers.1.self_attn.q_proj.lora_B.weight"
    rest = tuple(bucket for bucket in update.buckets if bucket.slots[0].name != lost)
    (lost_bucket,) = (bucket for bucket in update.buckets if bucket.slots[0].name == lost)
    assert len(rest) == len(update.buckets) - 1 == 7
    with pytest.raises(EngineError, match=f"'missing': '{lost}'"):
        check_update(replace(update, buckets=rest), model)
    with pytest.raises(EngineError, match=f"'repeated': '{lost}'"):
        check_update(replace(update, buckets=(*update.buckets, lost_bucket)), model)
    with pytest.raises(EngineError, match=r"'missing'.*4 more"):
        check_update(replace(update, buckets=()), model)


@pytest.mark.parametrize(("name", "shape"), [("lora_A", (3, 64)), ("lora_A", (2, 32)), ("lora_B", (32, 2))])
def test_a_factor_of_another_shape_is_refused(model_dir: str, name: str, shape: tuple[int, int]) -> None:
    model, update = read_model_files(model_dir), adapter_update(model_dir)
    wrong = f"model.layers.0.self_attn.q_proj.{name}.weight"
    buckets = tuple(
        replace(bucket, slots=tuple(replace(s, shape=shape) if s.name == wrong else s for s in bucket.slots))
        for bucket in update.buckets
    )
    with pytest.raises(EngineError, match=f"'misshapen': '{wrong}'"):
        check_update(replace(update, buckets=buckets), model)


@pytest.mark.parametrize("weight", ["model.layers.9.self_attn.q_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_an_adapter_of_what_is_no_matrix_of_the_model_is_refused(model_dir: str, weight: str) -> None:
    update = adapter_update(model_dir)
    assert update.low_rank is not None
    change = replace(update.low_rank, weights=(*update.low_rank.weights, weight))
    with pytest.raises(EngineError, match=f"'unknown': '{weight}'"):
        check_update(replace(update, low_rank=change), read_model_files(model_dir))


def test_an_adapter_finds_the_base_that_it_rests_on_or_is_refused(model_dir: str, tmp_path: Path) -> None:
    model, change = read_model_files(model_dir), adapter_update(model_dir).low_rank
    assert change is not None
    assert base_directory(change, model) == model_dir
    assert base_directory(replace(change, base=f"file://{model_dir}"), model) == model_dir
    warmed_up = save_model(build_model(5), tmp_path / "warm")
    with pytest.raises(EngineError, match="rests on other weights than those in"):
        base_directory(replace(change, base=warmed_up), model)
    there = adapter_update(warmed_up).low_rank
    assert there is not None and base_directory(there, model) == warmed_up
    other = adapter_update(save_model(build_model(0, tied=False), tmp_path / "untied")).low_rank
    assert other is not None
    assert base_directory(other, model)  # the head is the embedding's, whatever the file says
    with pytest.raises(EngineError, match=r"architecture that the engine serves: lm_head\.weight"):
        base_directory(change, read_model_files(other.base))


def test_engine_arguments_keep_sampling_honest_and_remote_code_out(model_dir: str) -> None:
    config = RolloutConfig(kv_cache_gib=0.25, weight_transfer="nccl")
    args = engine_args(config, model_dir, seed=3, max_model_len=64, on_cpu=True)
    assert args.logprobs_mode == "processed_logprobs" and args.generation_config == "vllm"
    assert args.trust_remote_code is False and args.load_format == "safetensors"
    assert args.kv_cache_memory_bytes == 2**28 and args.dtype == "float32" and args.enforce_eager
    assert args.weight_transfer_config.backend == "nccl"
    assert resolve_obj_by_qualname(str(args.distributed_executor_backend)) is UniProcExecutor
    wide = engine_args(RolloutConfig(tensor_parallel=2), model_dir, seed=3, max_model_len=64, on_cpu=True)
    assert wide.distributed_executor_backend == "mp"
    on_gpu = engine_args(RolloutConfig(), model_dir, seed=3, max_model_len=64, on_cpu=False)
    assert on_gpu.gpu_memory_utilization == 0.85 and on_gpu.dtype == "bfloat16"
    assert on_gpu.weight_transfer_config.backend == "fleming_object_store"


def test_the_environment_is_for_the_children_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    before = dict(os.environ)
    with engine_environment(RolloutConfig(cpu_threads=3), tmp_path):
        assert os.environ["OMP_NUM_THREADS"] == "3" and os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
        assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ and "GOMP_CPU_AFFINITY" not in os.environ
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64" and os.environ["VLLM_NO_USAGE_STATS"] == "1"
        assert json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text())["version"] == 1
        assert os.environ["OMP_NUM_THREADS"] == "3"
    with engine_environment(RolloutConfig(cpu_threads=2), tmp_path, (4, 7)):
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "4,7" and os.environ["GOMP_CPU_AFFINITY"] == "4 7"
    assert dict(os.environ) == before


def test_cores_are_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cpu_threads(RolloutConfig(actors=3)) == 2
    assert cpu_threads(RolloutConfig(actors=9)) == 1
    assert cpu_threads(RolloutConfig(actors=3, cpu_threads=5)) == 5


def test_the_first_error_in_the_log_is_the_cause() -> None:
    log = "WARNING vllm: slow\nTraceback ...\nValueError: No room for\nERROR x\nRuntimeError: worker failed\n"
    assert root_cause(RuntimeError("see above"), log) == "ValueError: No room for"
    assert root_cause(RuntimeError("two\nlines"), "") == "RuntimeError: two lines"
    assert "kv_cache_gib" in start_failure("ValueError: KV cache is needed", "m").remedy
    assert "vLLM supports" in start_failure("ValueError: no such architecture", "m").remedy


def test_a_stamp_tells_processes_apart_and_ends_with_them() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stamp = process_stamp(child.pid)
    assert stamp.startswith(f"{child.pid}:") and stamp != process_stamp(os.getpid())
    child.kill()
    child.wait()
    assert process_stamp(child.pid) == ""


def test_nobody_watches_itself_or_nothing() -> None:
    assert watch_owner("") is None
    assert watch_owner(process_stamp(os.getpid())) is None


WATCHER = "import sys, time; from actors.ownership import watch_owner; watch_owner(sys.argv[1]); time.sleep(60)"


def test_a_watcher_ends_its_process_within_two_seconds(checkout: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    # The watcher is our child, not the owner's: its parent must survive, so it is told that we are the owner's parent.
    code = WATCHER.replace("watch_owner(sys.argv[1])", "import os; os.getppid = lambda: 1; watch_owner(sys.argv[1])")
    watcher = subprocess.Popen([sys.executable, "-c", code, process_stamp(owner.pid)], env=environment)
    with pytest.raises(subprocess.TimeoutExpired):
        watcher.wait(timeout=1)
    owner.kill()
    owner.wait()
    assert watcher.wait(timeout=3) == 1


GUARDED = """
import subprocess, sys, time
from actors.ownership import Guardian

def child():
    nap = "import time; time.sleep(60)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {nap!r}]); time.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", code]).pid

before = child()
guardian = Guardian()
after = child()
time.sleep(2)
print(before, after, flush=True)
if sys.argv[1] == "dismiss":
    guardian.dismiss()
time.sleep(60)
"""


@pytest.mark.parametrize("mode", ["stay", "dismiss"])
def test_a_guardian_kills_what_came_after_it_when_its_owner_is_killed(checkout: Path, mode: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(
        [sys.executable, "-c", GUARDED, mode], env=environment, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        before, after = (int(pid) for pid in owner.stdout.readline().split())
        families = {root: {p: process_stamp(p) for p in {root} | descendants({root})} for root in (before, after)}
        assert [len(family) for family in families.values()] == [2, 2]
        if mode == "dismiss":
            time.sleep(0.5)
        owner.kill()
    deadline = time.monotonic() + (20 if mode == "stay" else 2)
    while True:
        left = {root: [p for p, stamp in f.items() if process_stamp(p) == stamp] for root, f in families.items()}
        if not left[after] or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for pid in (*left[before], *left[after]):
        os.kill(pid, signal.SIGKILL)
    assert len(left[before]) == 2
    assert len(left[after]) == (0 if mode == "stay" else 2)


def test_a_second_copy_beside_a_model_is_not_read(tmp_path: Path) -> None:
    """Mistral's directories hold the model twice, the second time under other names."""
    save_model(build_model(0), tmp_path)
    alone = read_model_files(str(tmp_path))
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "consolidated.safetensors")
    assert weight_files(str(tmp_path)) == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(alone.tensors, "model-00001-of-00001.safetensors")}))
    assert weight_files(str(tmp_path)) == [tmp_path / "model-00001-of-00001.safetensors"]
    assert read_model_files(str(tmp_path)) == alone
    index.write_text("[]")
    with pytest.raises(EngineError, match="has no weight_map"):
        read_model_files(str(tmp_path))
