"""The rooms are this checkout's, the floors hold, and configuration stays light."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.doctor import ROOMS

CONFIG_MODULES = ("actors.config", "data.config", "learner.config", "reward_service.config", "cluster.config")
ENGINES = ("torch", "vllm", "ray", "deepspeed", "transformers", "datasets", "pyarrow", "numpy")


def python(code: str, checkout: Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("room", ROOMS)
def test_room_of_this_checkout_in_this_process(room: str, checkout: Path) -> None:
    origin = importlib.import_module(room).__file__
    assert origin is not None
    assert Path(origin).resolve() == checkout / room / "__init__.py"


def test_rooms_of_this_checkout_from_any_folder(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # a stranger's folder of that name, without code, must not win
    code = f"import importlib, json; print(json.dumps([importlib.import_module(r).__file__ for r in {ROOMS}]))"
    assert json.loads(python(code, checkout, tmp_path)) == [str(checkout / room / "__init__.py") for room in ROOMS]


@pytest.mark.parametrize("module", CONFIG_MODULES)
def test_configuration_imports_no_engine(module: str, checkout: Path, tmp_path: Path) -> None:
    code = f"import sys, {module}; print([name for name in {ENGINES} if name in sys.modules])"
    assert python(code, checkout, tmp_path).strip() == "[]"


@pytest.fixture
def rooms_copy(checkout: Path, tmp_path: Path) -> Path:
    for room in ROOMS:
        shutil.copytree(checkout / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(checkout / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [shutil.which("lint-imports") or "lint-imports", "--no-logo", "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_floors_hold(rooms_copy: Path) -> None:
    code, text = lint_imports(rooms_copy)
    assert code == 0, text


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("actors/config.py", "import learner.config"),  # siblings
        ("learner/config.py", "import cluster.doctor"),  # upwards
        ("reward_service/config.py", "import data.tables"),  # the rest of data lies above the rewards
        ("data/errors.py", "import data.tables"),  # and above records, prompts and wire
        ("evaluation/__init__.py", "import cluster.doctor"),
        ("data/newcomer.py", ""),  # a module that nobody gave a floor
        ("learner/config.py", "import torch"),
    ],
)
def test_a_broken_floor_is_seen(rooms_copy: Path, module: str, line: str) -> None:
    with (rooms_copy / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    code, text = lint_imports(rooms_copy)
    assert code != 0, text
    assert "BROKEN" in text
