"""Verifiers that do the worst they can when the answer tells them to, for the tests of the workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from data.records import Question
from reward_service.verdict import Verdict


def obey(question: Question, answer: str) -> object:
    """Do what the answer says; otherwise the accepted answer is right."""
    command = answer.partition(" ")[0]
    if command in ("sleep", "fork"):
        if command == "fork":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "fleming-grandchild"])
        while True:
            time.sleep(3600)
    if command == "wait":  # slow, and honest: "wait 0.2 stroke"
        _, seconds, answer = answer.split(" ", 2)
        time.sleep(float(seconds))
    if command == "spin":
        while True:
            pass
    if command == "allocate":
        kept = []
        while True:
            kept.append(bytearray(16 << 20))
    if command == "exit":
        os._exit(0)
    if command == "kill":
        os.kill(os.getpid(), 9)
    if command == "raise":
        raise RuntimeError("no verdict today")
    if command == "nan":
        return float("nan")
    if command == "nan-verdict":
        return Verdict(correct=float("nan"), reason="correct")  # type: ignore[arg-type]
    if command == "huge-verdict":
        return Verdict(correct=False, reason="r" * (40 << 20), answer="a" * (40 << 20))
    if command in ("dribble", "flood"):  # the pipe to the host is the highest file that is open
        pipe = max(int(name) for name in os.listdir("/proc/self/fd") if _is_pipe(name))
        os.write(pipe, (1000).to_bytes(4, "little") if command == "dribble" else b"\xff" * 4)
        while True:
            os.write(pipe, b"x")
            time.sleep(0.1)
    if command == "print":
        print("noise " * 1000)  # noqa: T201
        os.write(1, b"\xff" * 100)
    if command == "close":
        os.closerange(3, 64)
        time.sleep(3600)
    return answer == question.answer_text


def _is_pipe(name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
    except OSError:
        return False
