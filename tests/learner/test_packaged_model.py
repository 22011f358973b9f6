"""A model that a package carries: found without importing the package, refused when it is not one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import ConfigError, FlemingError, SetupError
from learner.packaged_model import packaged_gguf


def package(folder: Path, name: str, *files: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("raise RuntimeError('imported')")
    for file in files:
        (folder / name / file).write_bytes(b"GGUF")


def test_the_file_is_found_and_the_package_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "carries_one", "model.Q4.gguf", "notes.txt")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_gguf("package:carries_one") == tmp_path / "carries_one" / "model.Q4.gguf"


@pytest.mark.parametrize(
    ("location", "kind", "message"),
    [
        ("package:", ConfigError, "names no package"),
        ("package:../x", ConfigError, "names no package"),
        ("package:not_there_at_all", SetupError, "is not installed"),
        ("package:carries_none", ConfigError, "holds 0 GGUF files"),
        ("package:carries_two", ConfigError, "holds 2 GGUF files"),
        ("package:json", ConfigError, "holds 0 GGUF files"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, kind: type[FlemingError], message: str
) -> None:
    package(tmp_path, "carries_none")
    package(tmp_path, "carries_two", "a.gguf", "b.gguf")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(kind, match=message):
        packaged_gguf(location)
