"""Storage behind a URI, the node's model cache, and what the operating system refuses."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from data.errors import ConfigError, SetupError
from data.storage import Storage, local_copy, storage_errors


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
        with pytest.raises(SetupError, match="the store went away"):
            local_copy("s3://bucket/model")
    assert os.listdir(local_copy("s3://bucket/model")) == ["model.safetensors"]


def test_the_cache_is_this_users_alone(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(remote / "model", b"one", mtime=100)
    folder = Path(local_copy("s3://bucket/model")).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    other = folder.stat().st_uid + 1
    folder.rename(folder.with_name(f"fleming-cache-{other}"))
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(SetupError, match="belongs to somebody else"):
        local_copy("s3://bucket/model")


def test_no_model_behind_a_uri_is_said_so(remote: Path) -> None:
    with pytest.raises(ConfigError, match="no model at s3://bucket/nowhere"):
        local_copy("s3://bucket/nowhere")


@pytest.mark.parametrize(
    ("place", "reason"),
    [("/proc/fleming", "No such file or directory"), ("{tmp}/" + 300 * "a", "File name too long")],
    ids=["no such place", "name too long"],
)
def test_a_place_that_cannot_be_is_an_error_with_the_reason(tmp_path: Path, place: str, reason: str) -> None:
    storage = Storage.open(place.format(tmp=tmp_path))
    with pytest.raises(SetupError, match=f"cannot write to .*: {reason}"):
        storage.write("key", b"x")
    with pytest.raises(SetupError, match=f"cannot write to .*: {reason}"):
        storage.create_exclusive("key", b"x")


def test_a_place_that_cannot_be_looked_at_is_an_error_with_the_reason(tmp_path: Path) -> None:
    storage = Storage.open(f"{tmp_path}/{300 * 'a'}")
    for look in (storage.exists, storage.list, lambda: storage.read("key")):
        with pytest.raises(SetupError, match=r"cannot read .*: File name too long"):
            look()
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot read .*file: Not a directory"):
        Storage.open(str(tmp_path)).list("file")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO, errno.ELOOP, errno.ESTALE, errno.EMFILE])
def test_every_refusal_of_a_write_is_an_error_with_the_reason(code: int) -> None:
    with (
        pytest.raises(SetupError, match=f"cannot write to here: {os.strerror(code)}. Remedy") as caught,
        storage_errors("here"),
    ):
        raise OSError(code, os.strerror(code))
    assert "run.storage" in caught.value.remedy


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_keeps_its_own_remedy(code: int) -> None:
    with pytest.raises(SetupError, match="no space left on here") as caught, storage_errors("here"):
        raise OSError(code, os.strerror(code))
    assert "--resume" in caught.value.remedy


def test_deleting_what_is_gone_is_no_error_and_a_refusal_is_one(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    storage.delete("nothing")
    storage.delete_tree("nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SetupError, match="cannot write to"):
        storage.delete("folder")


@pytest.mark.parametrize("name", ["/no/model", "./no/model", "../no/model", "~/no/model"])
def test_a_path_is_not_asked_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="no such directory") as caught:
        local_copy(name)
    assert "hub" not in str(caught.value) and ".." not in str(caught.value).replace(name, "")


def test_what_the_hub_says_ends_with_one_full_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def refuse(*_: object, **__: object) -> str:
        raise OSError("We have no connection to the hub.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ConfigError, match="the hub does not give it: We have no connection") as caught:
        local_copy("somebody/some-model")
    assert ".." not in str(caught.value)


@pytest.mark.parametrize("location", ["s3:/bucket/runs", "gs:/bucket", "file:/runs", "s3:bucket/runs", "S3:/bucket"])
def test_half_a_uri_is_refused(location: str) -> None:
    with pytest.raises(ConfigError, match="two slashes") as caught:
        Storage.open(location)
    assert "://bucket" in caught.value.remedy or ":///runs" in caught.value.remedy
    with pytest.raises(ConfigError, match="two slashes"):
        local_copy(location)


def test_a_colon_in_a_path_is_no_uri(tmp_path: Path) -> None:
    assert Storage.open(str(tmp_path / "run:2026")).root == str(tmp_path / "run:2026")
    assert Storage.open("./s3:/x").root.endswith("/s3:/x")
