"""The doctor names what is wrong: each fault is injected, and the finding must be about it."""

from __future__ import annotations

import importlib.metadata
import io
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cluster import doctor
from cluster.doctor import Check, Gpus


def rendered(checks: list[Check]) -> tuple[str, int]:
    out = io.StringIO()
    code = doctor.render(checks, Console(file=out, width=200, no_color=True))
    return out.getvalue(), code


def test_looks_at_everything_without_crashing(tmp_path: Path) -> None:
    checks = doctor.run_checks(environ={"PATH": "/usr/bin:/bin"}, storage=tmp_path / "runs")
    names = {check.name for check in checks}
    assert {"Python", "rooms", "C++ compiler", "ninja", "libnuma", "GPU", "memory", "shared memory"} <= names
    assert {"disk for runs", "ports", "open files", "Ray cluster"} <= names
    assert all(check.remedy for check in checks if check.status != "ok")
    assert not (tmp_path / "runs").exists()


def test_starts_without_the_heavy_packages() -> None:
    code = (
        "import sys\n"
        "heavy = ('torch', 'vllm', 'ray', 'deepspeed', 'transformers', 'pydantic')\n"
        "for name in heavy: sys.modules[name] = None  # an import of any of them raises\n"
        "from cluster.doctor import run_checks\n"
        "print(len(run_checks()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_a_check_that_cannot_look_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise PermissionError("no /proc here")

    monkeypatch.setattr(doctor, "available_memory", broken)
    found = {check.name: check for check in doctor.run_checks(environ={})}
    assert found["memory"].status == "warn"
    assert "no /proc here" in found["memory"].detail


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 9), "fail"), ((3, 11, 0), "ok"), ((3, 12, 4), "ok"), ((3, 13, 0), "warn")]
)
def test_python(version: tuple[int, ...], status: str) -> None:
    assert doctor.check_python(version).status == status


def test_packages_missing_and_other_versions(tmp_path: Path) -> None:
    pins = tmp_path / "cpu.txt"
    right = importlib.metadata.version("pytest")
    pins.write_text(f"# head\npytest=={right}\nrich==0.0.1  # old\nno-such-package-here==1.0\n")
    found = {check.name: check for check in doctor.check_packages(doctor.read_pins(pins), "gpu")}
    assert found["packages"].detail.startswith("1 of 3 as pinned")
    assert found["rich"].status == "warn"
    assert "instead of the pinned 0.0.1" in found["rich"].detail
    assert found["no-such-package-here"].status == "fail"
    assert found["no-such-package-here"].remedy == "make setup PROFILE=gpu"


def test_an_empty_environment_is_one_row() -> None:
    pins = {f"no-such-package-{index}": "1.0" for index in range(60)}
    (check,) = doctor.check_packages(pins, None)
    assert check.status == "fail"
    assert "60 of 60" in check.detail


def test_a_room_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.status for check in doctor.check_rooms(doctor.CHECKOUT)] == ["ok"]
    strangers = doctor.check_rooms(tmp_path)  # a checkout from which none of them comes
    assert [check.name for check in strangers] == [f"room {room}" for room in doctor.ROOMS]
    assert all(check.status == "fail" and str(doctor.CHECKOUT) in check.detail for check in strangers)
    monkeypatch.setattr(doctor, "ROOMS", ("no_such_room",))
    assert doctor.check_rooms(doctor.CHECKOUT)[0].detail == "is not importable"


def test_missing_programs(tmp_path: Path) -> None:
    missing = doctor.check_program("C++ compiler", "no-such-compiler", "install g++", {"PATH": str(tmp_path)})
    assert (missing.status, missing.remedy) == ("fail", "install g++")
    tool = tmp_path / "some-tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert doctor.check_program("tool", "some-tool", "", {"PATH": str(tmp_path)}).status == "ok"


def test_libnuma_matters_on_the_cpu_only() -> None:
    def missing(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    assert doctor.check_libnuma("cpu", missing).status == "fail"
    assert doctor.check_libnuma("gpu", missing).status == "warn"
    assert "libnuma1" in doctor.check_libnuma("cpu", missing).remedy


def smi(stdout: str, code: int = 0, stderr: str = "") -> Gpus:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, stdout, stderr)

    return doctor.read_gpus(run)


def test_gpus() -> None:
    def absent(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError("nvidia-smi")

    def hangs(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired("nvidia-smi", 3)

    none, two = doctor.read_gpus(absent), smi("NVIDIA H100, 570.1\nNVIDIA H100, 570.1\n")
    broken = smi("", code=9, stderr="couldn't communicate with the NVIDIA driver")
    assert doctor.check_gpu(none, "cpu").status == "ok"
    assert doctor.check_gpu(none, "gpu").status == "fail"
    assert doctor.check_gpu(two, "gpu") == Check(name="GPU", status="ok", detail="2 x NVIDIA H100, driver 570.1")
    assert "PROFILE=gpu" in doctor.check_gpu(two, "cpu").remedy
    assert doctor.check_gpu(broken, "gpu").status == "fail"
    assert "communicate" in doctor.check_gpu(broken, "cpu").detail
    assert "timed out" in doctor.read_gpus(hangs).problem


def test_memory_of_a_container(tmp_path: Path) -> None:
    proc = tmp_path / "meminfo"
    proc.write_text("MemTotal: 99 kB\nMemAvailable:   16777216 kB\n")
    assert doctor.available_memory(proc, tmp_path / "no-cgroup") == 16 * doctor.GIB
    (tmp_path / "memory.max").write_text(f"{5 * doctor.GIB}\n")
    (tmp_path / "memory.current").write_text(f"{2 * doctor.GIB}\n")
    assert doctor.available_memory(proc, tmp_path) == 3 * doctor.GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.available_memory(proc, tmp_path) == 16 * doctor.GIB
    statuses = [doctor.check_memory(gib * doctor.GIB).status for gib in (3, 5, 20)]
    assert statuses == ["fail", "warn", "ok"]


@pytest.mark.parametrize(("free", "status"), [(64 << 20, "fail"), (1 << 30, "warn"), (8 << 30, "ok")])
def test_shared_memory(free: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free, "total": free})())
    check = doctor.check_shared_memory(tmp_path)
    assert check.status == status
    assert status == "ok" or "--shm-size" in check.remedy
    assert doctor.check_shared_memory(tmp_path / "absent").status == "fail"


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = {"free": 1 << 20, "total": 1 << 40}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), usage)())
    assert doctor.check_disk("disk", tmp_path / "not" / "yet").status == "fail"
    usage["free"] = 20 << 30  # plenty, but under the 5 % that Ray wants
    assert doctor.check_disk("disk", tmp_path).status == "warn"
    usage["total"] = 100 << 30
    assert doctor.check_disk("disk", tmp_path).status == "ok"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "not writable" in doctor.check_disk("disk", tmp_path).detail


def test_no_free_port() -> None:
    class Full(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(98, "Address already in use")

    assert doctor.check_port().status == "ok"
    check = doctor.check_port(Full)
    assert check.status == "fail"
    assert "Address already in use" in check.detail


@pytest.mark.parametrize(
    ("soft", "hard", "status", "remedy"),
    [(256, 512, "fail", "hard limit"), (1024, 65536, "warn", "ulimit"), (65536, 65536, "ok", ""), (-1, -1, "ok", "")],
)
def test_open_files(soft: int, hard: int, status: str, remedy: str) -> None:
    check = doctor.check_open_files(soft, hard)
    assert check.status == status
    assert remedy in check.remedy


def test_no_ray_is_fine_and_a_dead_address_is_not(tmp_path: Path) -> None:
    (check,) = doctor.check_ray({}, current=tmp_path / "absent")
    assert check.status == "ok"
    with socket.socket() as closed:  # bound and never listening: a port that answers nobody
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        (check,) = doctor.check_ray({"RAY_ADDRESS": address}, current=tmp_path / "absent")
        assert check.status == "fail"
        assert address in check.detail
        (tmp_path / "stale").write_text(address)
        (check,) = doctor.check_ray({}, current=tmp_path / "stale")  # a note that a dead cluster left behind
        assert check.status == "ok"
        (check,) = doctor.check_ray({"RAY_ADDRESS": "auto"}, current=tmp_path / "stale")
        assert check.status == "fail"


def test_a_running_ray_and_its_token(tmp_path: Path) -> None:
    with socket.socket() as cluster:
        cluster.bind(("127.0.0.1", 0))
        cluster.listen()
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        found, token = doctor.check_ray({"RAY_ADDRESS": f"ray://{address}"}, home=tmp_path)
        assert (found.status, token.status) == ("ok", "warn")
        assert "RAY_AUTH_MODE=token" in token.remedy
        assert "auth_token" in token.remedy
        note = tmp_path / "note"
        note.write_text(address)
        local, _ = doctor.check_ray({}, current=note, home=tmp_path)
        assert local.status == "warn"
        assert f"RAY_ADDRESS={address}" in local.remedy
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    good = doctor.check_ray_token({"RAY_AUTH_MODE": "token"}, tmp_path)
    assert good.status == "ok"
    assert "secret" not in str(good)


def test_render_puts_failures_first_and_sets_the_exit_code() -> None:
    fine = Check(name="Python", status="ok", detail="3.11.7")
    odd = Check(name="memory", status="warn", detail="5 GiB free", remedy="lower [learner] ranks")
    bad = Check(name="libnuma", status="fail", detail="not found", remedy="apt-get install libnuma1")
    text, code = rendered([fine, odd, bad])
    assert code == 1
    assert text.index("libnuma: apt-get") < text.index("memory: lower [learner] ranks")
    assert "1 to mend before a run, 1 to look at" in text
    assert rendered([fine, odd])[1] == 0
    assert "Ready to run." in rendered([fine])[0]
