"""What stays of checkpoints, and what a killed export leaves (the collectives are in tests/integration)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from data.errors import RunStateError, SetupError
from data.low_rank import fingerprint
from data.storage import Storage
from learner import checkpoints


def made(root: Path, *keys: str) -> None:
    for key in keys:
        (root / key).mkdir(parents=True)
        (root / key / "learner.json").write_text("{}")


def left(root: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(root)) for path in root.rglob("learner.json"))


def test_the_checkpoints_of_earlier_attempts_are_pruned_too(tmp_path: Path) -> None:
    made(
        tmp_path,
        "train/attempt-01/step-000010",
        "train/attempt-01/step-000020",
        "train/attempt-01/step-000030",  # saved, and never committed
        "train/attempt-02/step-000030",
        "train/attempt-10/step-000030",
        "train/attempt-10/step-000030-g2",
        "train/warm-up-01/step-000001",
    )
    (tmp_path / "train/attempt-01/trainer_snapshot.json").write_text("{}")
    keep = {"train/attempt-01/step-000020", "train/attempt-10/step-000030-g2"}
    checkpoints.prune(str(tmp_path), "train/attempt-10", keep=keep)
    assert left(tmp_path) == [*sorted(keep), "train/warm-up-01/step-000001"]
    assert (tmp_path / "train/attempt-01/trainer_snapshot.json").exists()


def test_a_run_name_without_number_prunes_its_own_folder_only(tmp_path: Path) -> None:
    made(tmp_path, "alone/step-000001", "alone/step-000002", "other/step-000001")
    checkpoints.prune(str(tmp_path), "alone", keep={"alone/step-000002"})
    assert left(tmp_path) == ["alone/step-000002", "other/step-000001"]


class TwoLayers(torch.nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.full((64,), value))
        self.second = torch.nn.Parameter(torch.full((64,), value))


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "barrier", lambda: None)


def policy_of(folder: Path, value: float) -> Any:
    """As much of a `ZeroPolicy` as an export looks at; its parameters are not sharded."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "test", "torch_dtype": "float64"}')
    (folder / "tokenizer.json").write_text("{}")
    return SimpleNamespace(module=TwoLayers(value), model_dir=str(folder), learner=SimpleNamespace(dtype="float32"))


def test_an_export_over_an_older_one_leaves_only_the_new(tmp_path: Path, one_rank: None) -> None:
    target, out = Storage.open(str(tmp_path / "final")), tmp_path / "final"
    checkpoints.export_model(policy_of(tmp_path / "source", 1.0), target, shard_bytes=256)
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    checkpoints.export_model(policy_of(tmp_path / "source", 2.0), target)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    weights = load_file(out / "model.safetensors")
    assert {name: tensor.unique().tolist() for name, tensor in weights.items()} == {"first": [2.0], "second": [2.0]}
    assert json.loads((out / "config.json").read_text()) == {"model_type": "test", "dtype": "float32"}


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_an_export_killed_at_any_file_leaves_no_model(
    tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    target, out = Storage.open(str(tmp_path / "final")), tmp_path / "final"
    checkpoints.export_model(policy_of(tmp_path / "source", 1.0), target, shard_bytes=256)
    whole = Storage.write
    names: list[str] = []

    def dies(self: Storage, key: str, content: bytes) -> None:
        if len(names) == written:
            raise SetupError("killed", remedy="none")
        names.append(key)
        whole(self, key, content)

    monkeypatch.setattr(Storage, "write", dies)
    with pytest.raises(SetupError, match="killed"):
        checkpoints.export_model(policy_of(tmp_path / "source", 2.0), target, shard_bytes=256)
    assert not (out / "config.json").exists()
    shards = [tensor for path in out.glob("*.safetensors") for tensor in load_file(path).values()]
    assert all((tensor == 2.0).all() for tensor in shards) and len(shards) == min(written, 2)


def test_a_full_disk_is_blamed_on_the_place_that_is_full(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> None:
    train = pytest.importorskip("ray.train")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "report", full)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_local", full)
        with pytest.raises(SetupError, match=r"no space left on /.*fleming-checkpoint-.*TMPDIR"):
            checkpoints.save(cast(Any, None), step=1, name="step-000001")
    monkeypatch.setattr(checkpoints, "write_local", lambda *_, **__: None)
    with pytest.raises(SetupError, match=r"no space left on the run's storage .*step-000001.*run\.storage"):
        checkpoints.save(cast(Any, None), step=1, name="step-000001")


def test_an_adapter_or_reference_on_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same names and sizes, other weights: the checkpoint says which model it rests on."""
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    model, saved = tmp_path / "model", tmp_path / "saved"
    model.mkdir()
    saved.mkdir()
    weights = model / "model.safetensors"
    weights.write_bytes(bytes(5 << 20))
    state = {"step": 3, "optimizer_step": 3, "ranks": 1, "base": fingerprint(str(model))}
    (saved / "learner.json").write_text(json.dumps(state))
    for changed in (0, 5 << 19, (5 << 20) - 1):  # head, middle, end
        content = bytearray(5 << 20)
        content[changed] = 1
        weights.write_bytes(content)
        with pytest.raises(RunStateError, match="has changed, and the checkpoint's adapter or reference rests on it"):
            checkpoints.read_local(
                cast(Any, SimpleNamespace(model_dir=str(model))), str(saved), step=3, needs_base=True
            )
