"""What stays of checkpoints, and what a killed export leaves (the collectives are in tests/integration)."""

from __future__ import annotations

from pathlib import Path

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
