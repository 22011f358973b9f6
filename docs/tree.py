"""Writes the tree of the README from the first sentence of every module's docstring: `make tree`."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tree:begin (make tree) -->", "<!-- tree:end -->"
ROOMS = {
    "data": "what is asked, what is the truth, where is it from?",
    "reward_service": "is this completion right?",
    "actors": "who generates?",
    "learner": "who learns?",
    "evaluation": "how good is it?",
    "cluster": "how does it run?",
    "recipes": "what does a user start from?",
    "bench": "how fast is it?",
}


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring, or of the comment at the head of a YAML file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = " ".join(line.lstrip("# ") for line in text.split("\n\n")[0].splitlines() if line.startswith("#"))
    sentence = re.split(r"(?<=[.;?])(?<!eq\.)\s", " ".join(said.replace("`", "").split()), maxsplit=1)[0]
    return sentence.rstrip(".;")


def tree(checkout: Path) -> str:
    """One line per file, in the order of the floors."""
    lines = []
    for room, question in ROOMS.items():
        files = sorted(path for kind in ("*.py", "*.yaml") for path in (checkout / room).rglob(kind))
        files = [path for path in files if path.name not in ("__init__.py", "__main__.py")]
        if files:
            lines.append(f"{room + '/':<28}{question}")
            lines += [f"  {path.relative_to(checkout / room)!s:<26}{first_sentence(path)}" for path in files]
    return "```\n" + "\n".join(lines) + "\n```"


def with_tree(readme: str, checkout: Path) -> str:
    """The README with its tree replaced.

    Raises:
        ValueError: the README lacks the two marks between which the tree stands.
    """
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN!r} or {END!r}")
    return f"{head}{begin}\n{tree(checkout)}\n{end}{tail}"


def main() -> int:
    readme = CHECKOUT / "README.md"
    readme.write_text(with_tree(readme.read_text(encoding="utf-8"), CHECKOUT), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
