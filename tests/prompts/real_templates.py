"""Real chat templates of models, from the optional test data; an empty list without it."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "testdata" / "templates"
# Kept indented for reading; used without indentation and line breaks
INDENTED = (
    "alpaca", "amberchat", "chatml", "chatqa", "falcon-instruct", "gemma-it", "llama-2-chat", "llama-3-instruct", "mistral-instruct",
    "openchat-3.5", "phi-3", "phi-3-small", "saiga", "solar-instruct", "vicuna", "zephyr",
)  # fmt: skip
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))


def template_text(name: str) -> str:
    """The template as a model carries it."""
    text = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    return text.replace("    ", "").replace("\n", "") if name in INDENTED else text
