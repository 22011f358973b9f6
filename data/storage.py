"""Files by path or URI (pyarrow file systems), written whole or not at all.

A run's storage is a local path on one machine, a shared path or a URI (``s3://bucket/runs``) on a cluster. Nothing here
knows what a run is: it opens storage, writes files so that a reader never sees half of one, and brings a directory to
this node when a library wants local files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs as pafs

from data.errors import ConfigError, SetupError


@dataclass(frozen=True)
class Storage:
    """A root directory on a pyarrow file system; ``uri`` is how the user named it, ``root`` the path inside ``fs``.

    ``setting``: the key or option that chose the place, for remedies.
    """

    uri: str
    fs: pafs.FileSystem
    root: str
    setting: str = "run.storage"

    @classmethod
    def open(cls, location: str, *, setting: str = "run.storage") -> Storage:
        """Open a path or URI. A leading ``~`` is the home directory; nothing is created yet.

        Raises:
            ConfigError: the scheme is not one that pyarrow knows, or lacks a slash.
        """
        _refuse_half_uri(location)
        if "://" not in location:
            path = str(Path(location).expanduser().absolute())
            return cls(uri=path, fs=pafs.LocalFileSystem(), root=path, setting=setting)
        try:
            file_system, root = pafs.FileSystem.from_uri(location)
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"storage {location!r} cannot be opened: {error}",
                remedy="give a local or shared path, or a URI that pyarrow knows such as s3://bucket/folder",
            ) from error
        return cls(uri=location.rstrip("/"), fs=file_system, root=root.rstrip("/"), setting=setting)

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, key: str) -> str:
        """The path of ``key`` inside the file system."""
        return f"{self.root}/{key}" if key else self.root

    def child(self, key: str) -> Storage:
        return Storage(uri=f"{self.uri}/{key}", fs=self.fs, root=self.path(key), setting=self.setting)

    def exists(self, key: str = "") -> bool:
        with storage_errors(self.uri, "read", setting=self.setting):
            return bool(self.fs.get_file_info(self.path(key)).type != pafs.FileType.NotFound)

    def is_directory(self, key: str = "") -> bool:
        return bool(self.fs.get_file_info(self.path(key)).type == pafs.FileType.Directory)

    def list(self, key: str = "") -> list[str]:
        """Base names in the folder ``key``, sorted; empty when it is not there."""
        selector = pafs.FileSelector(self.path(key), allow_not_found=True)
        with storage_errors(self.path(key), "read", setting=self.setting):
            return sorted(info.base_name for info in self.fs.get_file_info(selector))

    def read(self, key: str) -> bytes:
        """The content of a file.

        Raises:
            SetupError: it is not there or cannot be read.
        """
        with (
            storage_errors(self.path(key), "read", setting=self.setting),
            self.fs.open_input_stream(self.path(key)) as stream,
        ):
            return bytes(stream.read())

    def read_bounded(self, key: str, limit: int) -> bytes:
        """The content of a file that somebody else may have put there: never more than ``limit`` bytes, never a wait.

        Raises:
            SetupError: it is not there or cannot be read, is no regular file (a pipe, a device), or is larger.
        """
        where = self.path(key)
        with storage_errors(where, "read", setting=self.setting):
            if self.is_local:
                content = _read_regular(where, limit + 1)
            else:
                with self.fs.open_input_stream(where) as stream:
                    content = bytes(stream.read(limit + 1))
        if len(content) > limit:
            raise SetupError(f"{where} is larger than {limit:,} bytes", remedy="no run writes such a file: remove it")
        return content

    def write(self, key: str, content: bytes) -> None:
        """Write a file whole: local files through a temporary name and a rename, objects in one put.

        Raises:
            SetupError: the disk is full or the place cannot be written; nothing is left behind.
        """
        with storage_errors(self.uri, setting=self.setting):
            target = self.path(key)
            self.fs.create_dir(os.path.dirname(target), recursive=True)
            if self.is_local:
                _write_local(target, content)
            else:
                with self.fs.open_output_stream(target) as stream:
                    stream.write(content)

    def create_exclusive(self, key: str, content: bytes) -> bool:
        """Create a file that must not exist yet; False when it does. Atomic on local and shared file systems."""
        with storage_errors(self.uri, setting=self.setting):
            target = self.path(key)
            self.fs.create_dir(os.path.dirname(target), recursive=True)
            if not self.is_local:
                if self.exists(key):
                    return False
                self.write(key, content)
                return True
            temporary = f"{target}.{uuid.uuid4().hex}.tmp"
            try:
                _write_and_sync(temporary, content)
                os.link(temporary, target)  # fails when the target exists, and never shows a half-written file
                return True
            except FileExistsError:
                return False
            finally:
                Path(temporary).unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        """Delete a file; nothing when it is not there."""
        with storage_errors(self.path(key), setting=self.setting), contextlib.suppress(FileNotFoundError):
            if self.exists(key):
                self.fs.delete_file(self.path(key))

    def delete_tree(self, key: str) -> None:
        """Delete a folder and all in it; nothing when it is not there."""
        with storage_errors(self.path(key), setting=self.setting), contextlib.suppress(FileNotFoundError):
            if self.exists(key):
                self.fs.delete_dir(self.path(key))


def _read_regular(path: str, most: int) -> bytes:
    """At most ``most`` bytes of a regular file. Raises `SetupError` for anything else."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else opening a pipe waits for a writer
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise SetupError(f"{path} is no regular file", remedy="no run writes such a file: remove it")
        with open(opened, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(opened)


def _write_local(target: str, content: bytes) -> None:
    temporary = f"{target}.{uuid.uuid4().hex}.tmp"
    try:
        _write_and_sync(temporary, content)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _write_and_sync(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def storage_errors(where: str, action: str = "write to", *, setting: str = "run.storage") -> Iterator[None]:
    """Turn every refusal of the operating system or the store into an error that says what to do.

    Raises:
        SetupError: "cannot write to <where>: <reason>"; its remedy names ``setting``, which chose the place.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            again = "again" if setting.startswith("--") else "with --resume"
            raise SetupError(
                f"no space left on {where}",
                remedy=f"free some space or set {setting} to another place, then run the same command {again}",
            ) from error
        # pyarrow repeats the path and the number in its text; where there is no number the text is all there is.
        reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split()).rstrip(".")[:200]
        may = "that can be read" if action == "read" else "that you may write to"
        raise SetupError(
            f"cannot {action} {where}: {reason or type(error).__name__}", remedy=f"set {setting} to a place {may}"
        ) from error


_HALF_URI = re.compile(
    r"(?P<scheme>(?:s3|gs|gcs|hdfs|viewfs|abfs|abfss|file|mock)(?=:)|[a-z][a-z0-9+.-]+(?=:/)):", re.I
)


def _refuse_half_uri(location: str) -> None:
    """``s3:/bucket`` would be taken for a folder of that name, here."""
    found = _HALF_URI.match(location)
    if found and "://" not in location:
        rest = location[found.end() :].lstrip("/")
        scheme = found["scheme"].lower()
        right = f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"
        raise ConfigError(
            f"{location!r}: a URI has two slashes after the colon", remedy=f"write {right}, or ./ before it"
        )


def local_copy(location: str) -> str:
    """A local directory with the model of ``location``: itself when it is local, else a copy on this node.

    ``location`` is a path, a storage URI or the name of a model on the hub.

    Copies are cached once per node and user, so that the actors of a node share one. The key holds names, sizes and
    modification times of the source files beside the URI: a model that was written anew is copied anew.

    Raises:
        ConfigError: there is no such model.
        SetupError: the copy cannot be made; nothing half-copied is ever returned.
    """
    _refuse_half_uri(location)
    if "://" not in location:
        expanded = Path(location).expanduser()
        if expanded.exists():
            return str(expanded)
        if location.startswith(("/", ".", "~")):  # no name on the hub begins so
            raise ConfigError(f"model {location!r}: no such directory", remedy="correct the path")
        return _from_hub(location)
    source = Storage.open(location)
    if source.is_local:
        return source.root
    folder = _private_cache()
    cache = folder / hashlib.blake2b(_fingerprint(source).encode(), digest_size=8).hexdigest()
    with open(f"{cache}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cache.exists():
            _fetch(source, cache)
    return str(cache)


def _fingerprint(source: Storage) -> str:
    """What a copy of ``source`` depends on: its URI and every file's name, size (bytes) and modification time (ns)."""
    selector = pafs.FileSelector(source.root, recursive=True, allow_not_found=True)
    files = [info for info in source.fs.get_file_info(selector) if info.type == pafs.FileType.File]
    if not files:
        raise ConfigError(f"there is no model at {source.uri}", remedy="correct the URI")
    return "\n".join([source.uri, *sorted(f"{info.path} {info.size} {info.mtime_ns}" for info in files)])


def _private_cache() -> Path:
    """This user's cache folder. The temporary folder is shared: nobody else may put a model there in our name."""
    folder = Path(tempfile.gettempdir()) / f"fleming-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise SetupError(
            f"{folder} belongs to somebody else", remedy="remove it, or set TMPDIR to a folder of your own"
        )
    folder.chmod(0o700)
    return folder


def _fetch(source: Storage, cache: Path) -> None:
    """Copy beside ``cache`` and rename: a copy that was cut short is begun again."""
    partial = Path(f"{cache}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with storage_errors(str(cache), setting="TMPDIR"):
        partial.mkdir()  # pyarrow makes the folders inside, and not this one
        pafs.copy_files(source.root, str(partial), source_filesystem=source.fs)
        partial.rename(cache)


def _from_hub(name: str) -> str:
    """Weights (safetensors only), tokenizer and configuration of a hub model, through the hub's own cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"])
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ConfigError(
            f"model {name!r} is no directory here, and the hub does not give it: {reason}",
            remedy="correct the path or the hub name; without a network give a local model directory",
        ) from error
