"""The service over real HTTP for a test, and the clients of docs/rewards.md made to talk to it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from reward_service.config import RewardConfig, ServiceConfig
from reward_service.http_app import create_app


@contextmanager
def serving(token: str = "", **settings: Any) -> Iterator[str]:
    """The address of one replica's application under uvicorn; Serve around it has its own test."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        app = create_app(ServiceConfig(**settings), RewardConfig(), token=token)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def client_of_the_document(checkout: Path, trainer: str, url: str, token: str) -> dict[str, Any]:
    """What the code of a trainer in docs/rewards.md defines, with a test's address and token."""
    page = (checkout / "docs" / "rewards.md").read_text(encoding="utf-8")
    match = re.search(rf"### {trainer}\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert match is not None
    code = match[1].replace("http://127.0.0.1:8700", url)
    code = code.replace("timeout=60.0", f'timeout=60.0, headers={{"authorization": "Bearer {token}"}}')
    namespace: dict[str, Any] = {}
    exec(compile(code, "docs/rewards.md", "exec"), namespace)
    return namespace
