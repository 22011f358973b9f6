"""Asks one question of any server that speaks the OpenAI protocol (``POST /chat/completions``)."""

from __future__ import annotations

import os
from typing import Any

import httpx


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
            reply = self._client.post(self._url, json=body)
            reply.raise_for_status()
            said: Any = reply.json()["choices"][0]["message"]["content"]
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ChatError(f"{type(error).__name__}: {str(error)[:160]}") from error
        return said if isinstance(said, str) else ""
