"""The coverage-guided fuzzer as a program: bytes to completions to `fuzzing.check`. Arguments are libFuzzer's."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["reward_service", "data.records"]):
    from tests.reward_service.fuzzing import PIECES, check


def completion_of(data: bytes) -> tuple[str, int]:
    """Every byte is a piece of the grammar or a character, so that small changes of bytes are small changes of text."""
    provider = atheris.FuzzedDataProvider(data)
    seed = provider.ConsumeIntInRange(0, 2**16)
    strict = provider.ConsumeBool()
    parts: list[str] = []
    while provider.remaining_bytes():
        choice = provider.ConsumeIntInRange(0, 255)
        parts.append(PIECES[choice] if choice < len(PIECES) else provider.ConsumeUnicode(1))
    text = "".join(parts)
    return (f"<think>x</think><answer>{text}</answer>" if strict else text), seed


def one(data: bytes) -> None:
    text, seed = completion_of(data)
    check(text, seed)


def main() -> None:
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
