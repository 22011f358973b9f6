"""The LLM rewriter against a real local server, and everything a rewrite may do wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.errors import DataError
from data.synthesis.compose import Made
from data.synthesis.config import RewriterConfig, SynthesisConfig
from data.synthesis.generate import generate, prepare
from data.synthesis.rewriter import EndpointRewriter, fault, rewrite
from tests.data.synthesis.fixture import made_up_graph


@pytest.fixture(scope="module")
def made() -> list[Made]:
    config = SynthesisConfig.model_validate(
        {"questions": 8, "workers": 1, "forms": {"diagnosis": 1}, "open_book_share": 1.0, "held_out_share": 0.0}
    )
    return generate(prepare(made_up_graph(), config))


@contextmanager
def served(answer: Callable[[str], str | None]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """An OpenAI-compatible server on this machine; ``answer`` gets the prompt, None makes it fail."""
    seen: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            said = answer(body["messages"][0]["content"])
            content = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
            self.send_response(200 if said is not None else 500)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _reworded(prompt: str) -> str:
    phrases = prompt.split("exactly as it is: ")[1].split(". Add no fact")[0].replace('"', "").split("; ")
    return f"<think>hm</think>In clinic, a patient shows {', '.join(phrases)}. Which diagnosis is most likely?"


def test_good_rewrites_are_kept_with_their_twins(made: list[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWRITER_KEY", "secret")
    with served(_reworded) as (url, seen):
        config = RewriterConfig(url=url, model="m", api_key_env="REWRITER_KEY")
        out, counts = rewrite(made, EndpointRewriter(config), attempts=2, seed=5)
    closed = [one for one in out if not one.explanation.twin_of]
    assert counts["kept"] == len(closed) and counts["refused"] == 0
    assert {one["path"] for one in seen} == {"/v1/chat/completions"} and seen[0]["key"] == "Bearer secret"
    stems = {one.question.id: one.question.stem for one in closed}
    for one in out:
        assert one.explanation.question_id == one.question.id
        assert "rewritten" in one.question.tags and one.question.stem.startswith("In clinic")
        if one.explanation.twin_of:
            assert stems[one.explanation.twin_of] == one.question.stem


def test_bad_rewrites_leave_the_template(made: list[Made]) -> None:
    with served(lambda _: "Which diagnosis is most likely?") as (url, seen):
        out, counts = rewrite(made, EndpointRewriter(RewriterConfig(url=url, model="m")), attempts=2, seed=0)
    closed = sum(not one.explanation.twin_of for one in made)
    assert out == list(made)
    assert counts == {"kept": 0, "refused": closed, "fault: lost": 2 * closed}
    assert len(seen) == 2 * closed


def test_a_dead_server_is_named(made: list[Made]) -> None:
    with served(lambda _: None) as (url, _), pytest.raises(DataError, match="did not answer"):
        rewrite(made, EndpointRewriter(RewriterConfig(url=url, model="m")), attempts=1, seed=0)


def _late(_: str) -> str:
    time.sleep(1.5)
    return "late"


def test_a_server_that_hangs_or_floods_leaves_the_template(made: list[Made]) -> None:
    for answer in (_late, lambda _: "x" * (2 << 20)):
        with served(answer) as (url, seen), pytest.raises(DataError, match="did not answer"):
            rewrite(made, EndpointRewriter(RewriterConfig(url=url, model="m", timeout_s=0.4)), attempts=2, seed=0)
        assert len(seen) <= 24  # asked at once, and then no more
    with served(lambda _: "x" * (1 << 19)) as (url, _):
        out, counts = rewrite(made, EndpointRewriter(RewriterConfig(url=url, model="m")), attempts=1, seed=0)
    assert out == list(made) and counts["fault: empty or far too long"] == counts["refused"]


def test_a_server_that_stops_answering_loses_nothing(made: list[Made]) -> None:
    left = iter(range(3))
    with served(lambda prompt: _reworded(prompt) if next(left, None) is not None else None) as (url, _):
        out, counts = rewrite(made, EndpointRewriter(RewriterConfig(url=url, model="m")), attempts=2, seed=0)
    assert len(out) == len(made)
    assert counts["kept"] >= 1 and counts["fault: no reply"] >= 1
    assert counts["kept"] + counts["refused"] == sum(not one.explanation.twin_of for one in made)


def test_a_server_that_tells_the_answer_is_refused(made: list[Made]) -> None:
    answers = {one.question.stem: one.question.answer_text for one in made}
    told = lambda prompt: f"{prompt.splitlines()[-1][:-1]} such as {answers[prompt.splitlines()[-1]]}?"  # noqa: E731
    with served(told) as (url, _):
        out, counts = rewrite(made, EndpointRewriter(RewriterConfig(url=url, model="m")), attempts=1, seed=0)
    assert out == list(made) and counts["kept"] == 0


def test_faults(made: list[Made]) -> None:
    one = made[0]
    stem, answer = one.question.stem, one.question.answer_text
    wrong = next(o.text for o in one.question.options if o.label != one.question.answer_label)
    assert fault(one, stem) == ""
    assert fault(one, "") == "empty or far too long"
    assert fault(one, stem.replace(one.shown[0], "it", 1)).startswith("lost")
    assert fault(one, f"After travel to Kenya: {stem}").startswith("added")
    assert fault(one, f"A 47 year old. {stem}").startswith("added")
    assert fault(one, stem.replace(one.shown[0], f"no {one.shown[0]}", 1)).startswith("negation")
    assert fault(one, f"{answer}: {stem}") != "" and fault(one, f"{wrong}: {stem}") != ""
    assert fault(one, stem.rstrip("?") + ".") == "no question"
