"""Which models are offered as draft models, by their headers alone."""

from __future__ import annotations

from modules.core.model import ModelInfo
from modules.loaders.draft import could_draft


def info(name: str, size: int, vocab: int = 1000, kind: str = "gguf", problem: str = "") -> ModelInfo:
    return ModelInfo(name=name, path=f"/models/{name}", format=kind, size_bytes=size, vocab_size=vocab, problem=problem)


def test_smaller_models_of_the_same_kind_and_vocabulary_are_offered_smallest_first() -> None:
    main = info("main", 100)
    others = [
        main, info("half", 50), info("tenth", 10), info("padded", 20, vocab=1100), info("other words", 10, vocab=2000), info("folder", 10, kind="safetensors"),
        info("as large", 100), info("larger", 200), info("broken", 5, problem="It is cut short."), info("unknown", 5, vocab=0),
    ]  # fmt: skip
    assert could_draft(main, others) == ("tenth", "padded", "half")
    assert could_draft(info("unknown", 100, vocab=0), others) == ()
