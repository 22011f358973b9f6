"""The documents name what is there: no file that is gone, no file that nobody mentions."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([CHECKOUT / "README.md", CHECKOUT / "requirements" / "README.md", *(CHECKOUT / "docs").glob("*.md")])
FOLDERS = ("data", "reward_service", "actors", "learner", "evaluation", "cluster", "recipes", "tests", "bench", "docs")
MADE_BY_A_RUN = ("data/questions.parquet",)


@pytest.fixture(scope="module")
def tree() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fleming_tree", CHECKOUT / "docs" / "tree.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tree_of_the_readme_is_complete(tree: ModuleType) -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert tree.with_tree(readme, CHECKOUT) == readme, "the README's tree is out of date: run `make tree`"


def test_every_module_says_what_it_is(tree: ModuleType) -> None:
    silent = [line for line in tree.tree(CHECKOUT).splitlines() if re.fullmatch(r"  \S+\s*", line)]
    assert silent == []


def test_a_new_module_changes_the_tree(tree: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.py").write_text('"""Says one thing: well. And more."""\n')
    readme = f"# A\n{tree.BEGIN}\nold\n{tree.END}\nend\n"
    assert "one.py                    Says one thing: well\n```" in tree.with_tree(readme, tmp_path)
    with pytest.raises(ValueError, match="lacks"):
        tree.with_tree("# no marks\n", tmp_path)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_names_and_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    linked = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in linked if link and not (document.parent / link).exists()] == []
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/(?:[\w/-]+\.\w+|[\w/-]*/)?)`", text)
    assert [name for name in named if name not in MADE_BY_A_RUN and not (CHECKOUT / name).exists()] == []


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        for command in re.findall(r"`make ([a-z -]+)", document.read_text(encoding="utf-8")):
            assert set(command.split()) <= targets, f"{document.name}: make {command}"
