"""docs/security.md names tests that exist, for every threat and every advisory that has to be there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
THREATS = (
    "exposed by default", "listening in", "DNS rebinding", "cross-site requests", "CORS", "guessing at the key", "Gradio's own routes", "path traversal", "pickle in weights", "code in a pickle that is converted", "pickles and code in a repository", "code in model folders", "code of a model that the command line trusts",
    "config bombs", "chat templates", "YAML", "malicious GGUF", "tokenizers", "grammars", "scripts in text", "compressed answers", "data carried out", "SSRF", "unpack without end", "regular expressions",
    "large bodies", "slow heads", "another person's", "more than a role", "secrets", "talking to the outside", "made-up addresses", "proxy's prefix", "extensions", "supply chain",
)  # fmt: skip
PROJECTS = ("text-generation-webui", "Open WebUI", "Gradio", "llama.cpp", "llama-cpp-python", "transformers", "Ollama", "vLLM")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")][2:]


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("heading", ["Threat, defence, test", "Published advisories, and what they would do here"])
def test_every_row_names_tests_that_exist(heading: str) -> None:
    found = rows(heading)
    known: dict[str, set[str]] = {}
    for cells in found:
        assert len(cells) == 3 and all(cells), cells
        named = NAMED.findall(cells[2])
        assert named, cells[0]
        assert NAMED.sub("", cells[2]).strip(" ,") == "", f"something else than tests: {cells[2]}"
        for name, function in named:
            if name not in known:
                known[name] = functions(ROOT / name)
            assert function in known[name], f"{cells[0]}: {name}::{function} is not there"


def test_every_threat_and_every_project_has_its_row() -> None:
    threats = [cells[0] for cells in rows("Threat, defence, test")]
    assert [word for word in THREATS if not any(word in threat for threat in threats)] == []
    assert len(threats) == len(THREATS)
    assert {cells[0] for cells in rows("Published advisories, and what they would do here")} == set(PROJECTS)


def test_the_page_is_linked_and_complete() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for heading in ("Who is trusted with what", "Promises", "Where the server fetches", "Fuzzing", "Limits", "How to report"):
        assert f"\n## {heading}\n" in text
    assert "docs/security.md" in (ROOT / "README.md").read_text(encoding="utf-8")
