"""Storage behind a URI, the node's model cache, and what the operating system refuses."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from data.errors import ConfigError, SetupError
from data.storage import Storage, local_copy


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that answers as the bucket of ``s3://bucket/...``; the node's temporary folder is one of its own."""
    bucket, node = tmp_path / "bucket", tmp_path / "node"
    bucket.mkdir()
    node.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(node))

    def open_bucket(uri: str) -> Storage:
        fs = pafs.SubTreeFileSystem(str(bucket), pafs.LocalFileSystem())
        return Storage(uri=uri, fs=fs, root=uri.removeprefix("s3://bucket/"))

    monkeypatch.setattr(Storage, "open", open_bucket)
    return bucket


def write_model(folder: Path, weights: bytes, *, mtime: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    os.utime(folder / "model.safetensors", (mtime, mtime))


def weights_of(copy: str) -> bytes:
    return (Path(copy) / "model.safetensors").read_bytes()


def test_a_model_behind_a_uri_is_copied_once(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(remote / "flat", b"one", mtime=100)
    copy = local_copy("s3://bucket/flat")
    assert weights_of(copy) == b"one" and os.listdir(copy) == ["model.safetensors"]
    monkeypatch.setattr(pafs, "copy_files", None)  # a second copy would fail
    assert local_copy("s3://bucket/flat") == copy


@pytest.mark.parametrize(("weights", "mtime"), [(b"two", 200), (b"three", 100)], ids=["same size", "same time"])
def test_a_model_written_anew_is_copied_anew(remote: Path, weights: bytes, mtime: int) -> None:
    write_model(remote / "model", b"one", mtime=100)
    old = local_copy("s3://bucket/model")
    write_model(remote / "model", weights, mtime=mtime)
    assert weights_of(local_copy("s3://bucket/model")) == weights
    assert weights_of(old) == b"one"  # whoever still reads it keeps it


def test_a_copy_that_was_cut_short_is_begun_again(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(remote / "model", b"one", mtime=100)

    def die(source: str, target: str, **_: object) -> None:
        (Path(target) / "half").write_text("")
        raise ConnectionResetError("the store went away")

    with monkeypatch.context() as patch:
        patch.setattr(pafs, "copy_files", die)
        with pytest.raises((SetupError, ConnectionResetError)):
            local_copy("s3://bucket/model")
    assert os.listdir(local_copy("s3://bucket/model")) == ["model.safetensors"]


def test_the_cache_is_this_users_alone(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(remote / "model", b"one", mtime=100)
    folder = Path(local_copy("s3://bucket/model")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    folder.rename(folder.with_name(f"fleming-cache-{os.getuid()}"))
    with pytest.raises(SetupError, match="belongs to somebody else"):
        local_copy("s3://bucket/model")


def test_no_model_behind_a_uri_is_said_so(remote: Path) -> None:
    with pytest.raises(ConfigError, match="no model at s3://bucket/nowhere"):
        local_copy("s3://bucket/nowhere")
