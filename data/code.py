"""Which code a process runs: one hash over the sources of all rooms.

A submitted job runs the code that was sent with it. A node whose path leads to another checkout would run other code
without a word; so whoever starts an actor or a learner rank tells it the driver's hash, and it refuses to be another.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from data.errors import SetupError

ROOMS = ("data", "reward_service", "actors", "learner", "evaluation", "cluster")


def hash_sources(root: Path) -> str:
    """Hash (16 hex digits) of every Python file of the rooms below ``root``: names and contents."""
    digest = hashlib.blake2b(digest_size=8)
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


@cache
def code_hash() -> str:
    """The hash of the checkout that this process imports from, taken when it is first asked for."""
    return hash_sources(Path(__file__).resolve().parent.parent)


def check_code(driver: str, part: str) -> None:
    """Refuse to be a part of a run whose driver has other code than this process.

    Args:
        driver: the driver's `code_hash`.
        part: who this process is, such as "rollout-0".

    Raises:
        SetupError: the two differ; says where this process has its code from.
    """
    if code_hash() != driver:
        raise SetupError(
            f"{part} has loaded other code than the driver, whose hash is {driver}: "
            f"{code_hash()} from {Path(__file__).resolve().parent.parent}",
            remedy="send the code with `fleming submit` and let nothing on the nodes' PYTHONPATH come before it; on "
            "one machine, do not edit the checkout while a run starts",
        )
