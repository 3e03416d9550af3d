"""Pieces of real vocabularies give the text back byte by byte, in the middle of a text, on both back ends."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from modules.core.errors import ContextOverflow
from modules.core.model import LoadedModel, Tokenizer
from modules.loaders.registry import find_loader
from modules.loaders.transformers.tokenizer import TransformersTokenizer, read_byte_alphabet
from tests.tiny_models import TinyFiles

TEXTS = ("Hello world, hello again", "naïve café — “quotes”", "日本語 and 😀👩‍🚀", "a  b   c\n\n\td", "x = {'a': [1, 2]}", " leading and trailing ", "\u0000\u200b")


def load(path: Path) -> LoadedModel:
    spec = find_loader(path)
    more = {"threads_batch": 1} if spec.name == "llama.cpp" else {}
    return spec.load(path, spec.options(slots=1, threads=1, **more), lambda *_: None)


def text_of(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    return b"".join(tokenizer.piece(token) for token in token_ids).decode("utf-8", "replace")


@pytest.mark.parametrize("name", ["llama2", "mistral-v3", "smollm2-135m-instruct", "gpt2"])
def test_real_vocabularies(testdata: Path, name: str) -> None:
    from transformers import AutoTokenizer

    folder = testdata / "tokenizers" / name
    plain = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer = TransformersTokenizer(plain, folder, 2048)
    for text in TEXTS:
        ids = tokenizer.encode("A" + text, add_special=False, parse_special=False)
        assert text_of(tokenizer, ids).removeprefix(" ") == "A" + text
        assert ids == plain.encode("A" + text, add_special_tokens=False)
    whole = tokenizer.encode("hi", add_special=True, parse_special=False)
    assert whole == plain.encode("hi")
    assert tokenizer.adds_bos == (whole[0] == plain.bos_token_id)
    assert plain.eos_token_id in tokenizer.end_ids
    assert all(tokenizer.is_special(token) for token in plain.all_special_ids)
    eos = plain.eos_token
    assert tokenizer.encode(f"a{eos}", add_special=False, parse_special=True)[-1] == plain.eos_token_id
    assert plain.eos_token_id not in tokenizer.encode(f"a{eos}", add_special=False, parse_special=False)
    assert tokenizer.piece(plain.eos_token_id) == eos.encode()


def test_turn_ends_of_a_chat_model_are_ends(testdata: Path) -> None:
    from transformers import AutoTokenizer

    folder = testdata / "tokenizers" / "smollm2-135m-instruct"
    tokenizer = TransformersTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True), folder, 2048)
    assert tokenizer.end_ids == frozenset(tokenizer.encode("<|im_end|><|endoftext|>", add_special=False, parse_special=True))


def test_the_byte_alphabet_covers_every_byte_once() -> None:
    alphabet = read_byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert len(alphabet) == 256


def test_the_starter_tokenizes_alike_in_both_formats(starter_dir: Path, starter_gguf: Path) -> None:
    models = folder, file = load(starter_dir), load(starter_gguf)
    for text in TEXTS:
        for special in (False, True):
            ids = folder.tokenizer.encode(text, add_special=True, parse_special=special)
            assert file.tokenizer.encode(text, add_special=True, parse_special=special) == ids
            assert text_of(file.tokenizer, ids) == text_of(folder.tokenizer, ids)
    assert folder.tokenizer.end_ids == file.tokenizer.end_ids
    assert (folder.tokenizer.bos_id, folder.tokenizer.adds_bos) == (file.tokenizer.bos_id, file.tokenizer.adds_bos)
    assert folder.template is not None
    assert file.template is not None
    assert folder.template.text.rstrip("\n") == file.template.text.rstrip("\n")  # Jinja drops a final newline
    assert (folder.template.bos_token, folder.template.eos_token) == (file.template.bos_token, file.template.eos_token)
    for model in models:
        model.runner.close()


def test_more_special_tokens_than_the_context_holds_are_refused_at_once(starter_gguf: Path) -> None:
    """The native tokenizer would take seconds, and minutes for a long context."""
    model = load(starter_gguf)
    encode, context = model.tokenizer.encode, model.runner.context_length
    with pytest.raises(ContextOverflow, match=f"{5 * context} special tokens; this model's context holds {context}"):
        encode("<s>" * 5 * context, add_special=False, parse_special=True)
    assert len(encode("<s>" * (context - 1) + " and", add_special=False, parse_special=True)) <= context + 2
    assert len(encode("<s>" * 2 * context, add_special=False, parse_special=False)) > context  # plain text
    model.runner.close()


def test_tokens_that_a_maker_defined_count_as_special_in_plain_text_too(tiny: TinyFiles, tmp_path: Path) -> None:
    raw, path = bytearray(tiny.gguf.read_bytes()), tmp_path / "defined.gguf"
    types = raw.index(array("i", [3] * 3 + [1] * 200).tobytes())  # three control tokens, then plain ones
    plain = load(tiny.gguf)
    [letter] = plain.tokenizer.encode("z", add_special=False, parse_special=False)
    plain.runner.close()
    raw[types + 4 * letter] = 4  # user-defined
    path.write_bytes(raw)
    model = load(path)
    assert model.tokenizer.encode("z" * 256, add_special=False, parse_special=False) == [letter] * 256
    with pytest.raises(ContextOverflow, match="257 special tokens"):
        model.tokenizer.encode("z" * 257, add_special=False, parse_special=False)
    model.runner.close()
