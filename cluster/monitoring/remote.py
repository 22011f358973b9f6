"""What can be seen of the runs of a live Ray cluster, through its dashboard's address: actors, and every live metric.

The dashboard's API lists nodes and actors; each node serves its metrics at a port of its own. Where the run's directory
can be read from here, the steps, completions and events come from there, as `fleming watch RUN` shows them.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from cluster.monitoring.catalogue import METRICS
from cluster.monitoring.sight import MAX_NAME, MAX_NUMBER, ActorSeen, RunReader, Sight, plain
from cluster.ray_jobs import TOKEN_REMEDY
from data.errors import FlemingError, SetupError
from data.storage import Storage

TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 32 << 20
MAX_ACTORS = 1000
REDIRECTS = (301, 302, 303, 307, 308)
PREFIX = "ray_fleming_"
_BY_EXPORTED = {metric.exported: metric for metric in METRICS.values()}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send our headers, the token among them, to whatever address an answer names."""

    def redirect_request(self, *_: object) -> None:
        return None  # the answer becomes an `HTTPError`


_OPENER = urllib.request.build_opener(_NoRedirect)


class ClusterReader:
    """Looks at a cluster again and again.

    Args:
        address: of Ray's dashboard, such as ``http://head:8265``. A cluster that asks for a token gets the one that Ray
            itself would use here (``RAY_AUTH_MODE=token`` and ``RAY_AUTH_TOKEN`` or ``~/.ray/auth_token``).
        run: the run to show; '' for the one that last gave a sign of life.
    """

    def __init__(self, address: str, run: str = "") -> None:
        self._address = address.rstrip("/")
        self._run = run
        self._readers: dict[str, RunReader | None] = {}

    def look(self) -> Sight:
        """
        Raises:
            SetupError: the address does not answer, refuses the token, or no such run is on the cluster.
        """
        runs = self._figures()
        name = self._run or max(runs, key=lambda run: runs[run].get("loop/heartbeat", 0.0), default="")
        if name not in runs:
            said = f"runs there: {', '.join(sorted(runs))}" if runs else "no run reports metrics there"
            raise SetupError(
                f"no run {name!r} on the cluster at {self._address}; {said}" if name else f"{self._address}: {said}",
                remedy="start a run, or name one with --run; metrics show about ten seconds after a run began",
            )
        figures = runs[name]
        where = next((key.removeprefix("loop/info/") for key in figures if key.startswith("loop/info/")), "")
        sight = self._from_directory(where) or Sight(
            run=plain(name, MAX_NAME),
            where=plain(where or self._address),
            age_s=None,
            notes=("the run's directory cannot be read from here: steps, completions and events are not shown",),
        )
        age = max(0.0, time.time() - figures.get("loop/heartbeat", 0.0))
        return replace(sight, age_s=age, figures={**sight.figures, **figures}, actors=self._actors(name))

    def _from_directory(self, where: str) -> Sight | None:
        if not where:
            return None
        try:
            if where not in self._readers:
                self._readers[where] = RunReader(Storage.open(where))
            reader = self._readers[where]
            return reader.look() if reader else None
        except FlemingError:
            self._readers[where] = None
            return None

    def _actors(self, run: str) -> tuple[ActorSeen, ...]:
        rows = self._rows(f"/api/v0/actors?detail=0&limit={MAX_ACTORS}", "data", "result", "result")
        mine = [row for row in rows if str(row.get("name", "")).startswith(run + "/")]
        seen = {
            ActorSeen(name=plain(row["name"].partition("/")[2], MAX_NAME), state=plain(row.get("state", "?"), 20))
            for row in mine
        }
        return tuple(sorted(seen, key=lambda actor: actor.name))

    def _figures(self) -> dict[str, dict[str, float]]:
        """Run -> key of the catalogue -> value, from the metrics endpoint of every node."""
        found: dict[str, dict[str, float]] = {}
        for node in self._rows("/nodes?view=summary", "data", "summary"):
            said = node.get("raylet")
            raylet: dict[str, Any] = said if isinstance(said, dict) else {}
            port = raylet.get("metricsExportPort", 0)
            if raylet.get("state") == "ALIVE" and port:
                try:
                    text = self._get(f"http://{node.get('ip')}:{port}/metrics").decode("utf-8", "replace")
                    page = figures_of(text)
                except (SetupError, ValueError):
                    continue  # a node that has just gone, whose port is not open to this machine, or no metrics page
                for run, figures in page.items():
                    found.setdefault(run, {}).update(figures)
        return found

    def _rows(self, path: str, *keys: str) -> list[dict[str, Any]]:
        """The list of objects under ``keys`` of an answer; empty where it has another shape."""
        try:
            answer = json.loads(self._get(self._address + path))
        except (ValueError, RecursionError) as error:
            raise SetupError(
                f"{self._address} answers, but is not Ray's dashboard",
                remedy="give its address, such as http://head:8265",
            ) from error
        for key in keys:
            answer = answer.get(key) if isinstance(answer, dict) else None
        return [row for row in answer if isinstance(row, dict)] if isinstance(answer, list) else []

    def _get(self, url: str) -> bytes:
        # The token goes to the dashboard alone, never to an address that an answer named.
        headers = _token_headers() if url.startswith(self._address + "/") else {}
        try:
            with _OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
                return bytes(answer.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            if error.code in REDIRECTS:
                onward = plain(error.headers.get("location", "nowhere"))
                raise SetupError(
                    f"{url} sends us on to {onward}, and the token is for the address alone that you gave",
                    remedy="give the address of Ray's dashboard itself; one behind a login page cannot be watched",
                ) from error
            raise SetupError(
                f"{url} answers {error.code} {error.reason}",
                remedy=TOKEN_REMEDY
                if error.code in (401, 403)
                else "give the address of Ray's dashboard, such as http://head:8265",
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:  # nobody, no such address, or no HTTP
            raise SetupError(
                f"{url} does not answer ({error})", remedy="is the address right, and the port open from here?"
            ) from error


def figures_of(text: str) -> dict[str, dict[str, float]]:
    """Fleming's series of a metrics page: run -> key of the catalogue -> value. Unknown series are left out.

    Raises:
        ValueError: it is no metrics page.
    """
    lines = [line for line in text.splitlines() if line.startswith(PREFIX)]
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            metric = _BY_EXPORTED.get(sample.name)
            if metric is None or not abs(sample.value) <= MAX_NUMBER:
                continue
            key = f"{metric.name}/{plain(sample.labels.get(metric.label, ''))}" if metric.label else metric.name
            found.setdefault(plain(sample.labels.get("run", "")), {})[key] = sample.value
    return found


def is_address(target: str) -> bool:
    return urlsplit(target).scheme in ("http", "https")


def _token_headers() -> dict[str, str]:
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return dict(get_auth_headers_if_auth_enabled({}))
