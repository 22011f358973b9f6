"""Asks one question of any server that speaks the OpenAI protocol (``POST /chat/completions``)."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import httpx

_MOST_BYTES = 1 << 20
"""A reply of more is no reply: a server that never ends its sentence must not fill the memory."""


class ChatError(Exception):
    """The server did not answer, or said something that is no reply. Whoever asked says what follows from it."""


class ChatClient:
    """One model behind one endpoint. ``url``: up to and with /v1; ``api_key_env``: variable with the key, "" for none.

    Example: ``ChatClient("http://127.0.0.1:8000/v1", "m", timeout_s=20).reply("Hi", seed=0, temperature=0.0)``.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout_s: float,
        api_key_env: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model = model
        self._timeout_s = timeout_s
        key = os.environ.get(api_key_env, "") if api_key_env else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Without trust_env: a proxy of the environment must not see what is asked.
        self._client = httpx.Client(timeout=timeout_s, headers=headers, transport=transport, trust_env=False)

    def reply(self, prompt: str, *, seed: int, temperature: float, max_tokens: int = 512) -> str:
        """The text of one reply; "" when there is none in it.

        Raises:
            ChatError: no reply.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": temperature,
            "seed": seed,
            "max_tokens": max_tokens,
        }
        try:
            said: Any = json.loads(self._body(body))["choices"][0]["message"]["content"]
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ChatError(f"{type(error).__name__}: {str(error)[:160]}") from error
        return said if isinstance(said, str) else ""

    def _body(self, body: dict[str, Any]) -> bytes:
        """The bytes of a reply, whole within the time-out: a server that sends a byte now and then is cut off too."""
        ends = time.monotonic() + self._timeout_s
        received = bytearray()
        with self._client.stream("POST", self._url, json=body) as reply:
            reply.raise_for_status()
            for part in reply.iter_bytes():
                received += part
                if len(received) > _MOST_BYTES:
                    raise ValueError(f"the reply is larger than {_MOST_BYTES} bytes")
                if time.monotonic() > ends:
                    raise ValueError(f"the reply was not whole within {self._timeout_s:g} s")
        return bytes(received)
