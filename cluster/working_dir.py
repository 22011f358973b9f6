"""What is sent to a cluster: the checkout as Ray packs it, without what a job does not run on (`.rayignore`).

The image of a cluster holds dependencies only, so the code that runs is the code that was sent.
"""

from __future__ import annotations

import logging
import shlex
import zipfile
from pathlib import Path

from data.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent


def entrypoint(*arguments: str) -> str:
    """The job's shell command: ``python -m cluster ...`` in the working dir."""
    return shlex.join(["python", "-m", "cluster", *arguments])


def pack(folder: Path) -> Path:
    """Zip the checkout into ``folder``, by the rules with which Ray packs a working dir.

    Raises:
        ConfigError: more than Ray's control store takes; names the largest files.
    """
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, create_package

    package = folder / "fleming.zip"
    quiet = logging.getLogger("fleming.packing")
    quiet.setLevel(logging.ERROR)  # Ray's advice on large files is for `ray.init`; ours is below
    create_package(str(CHECKOUT), package, include_gitignore=True, logger=quiet)
    check_size(package, limit=GCS_STORAGE_MAX_SIZE)
    return package


def check_size(package: Path, *, limit: int) -> None:
    """Refuse a package of ``limit`` bytes or more, naming what makes it large.

    Raises:
        ConfigError: it is too large.
    """
    size = package.stat().st_size
    if size < limit:
        return
    with zipfile.ZipFile(package) as archive:
        largest = sorted(archive.infolist(), key=lambda entry: -entry.file_size)[:3]
    named = ", ".join(f"{entry.filename} ({entry.file_size / 2**20:.1f} MiB)" for entry in largest)
    raise ConfigError(
        f"the checkout packs to {size / 2**20:.1f} MiB, the limit is {limit / 2**20:.1f} MiB; the largest: {named}",
        remedy="keep data and models on storage that the cluster reads, or name them in .rayignore",
    )


def sent_recipe(recipe: Path, package: Path) -> str:
    """The recipe's path inside the working dir.

    Raises:
        ConfigError: it is not among what is sent.
    """
    path = recipe.resolve()
    inside = path.relative_to(CHECKOUT).as_posix() if path.is_relative_to(CHECKOUT) else ""
    with zipfile.ZipFile(package) as archive:
        if inside not in archive.namelist():
            raise ConfigError(
                f"recipe {recipe} is not among what is sent to the cluster ({CHECKOUT}, without .rayignore's)",
                remedy="copy it into recipes/, or start from a shipped recipe with --set",
            )
    return inside
