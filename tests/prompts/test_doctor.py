"""Doctor and BOS: a fitting template is found fitting, a wrong one is told, with real tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from modules.core.model import TemplateSource
from modules.prompts.bos import for_model, needs_bos, single_bos
from modules.prompts.doctor import doubts, examine
from modules.prompts.ending import derive_ending
from modules.prompts.library import TemplateLibrary, own_template
from modules.prompts.template import Template
from tests.prompts.real_templates import NAMES, template_text

if TYPE_CHECKING:
    from pathlib import Path

    from modules.prompts.renderer import TemplateRenderer

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
BEGUN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
NEEDS_TOOLS = "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"  # as its makers ship it: it writes no chat without tools


class FileTokenizer:
    """A real tokenizer.json behind the `Tokenizer` protocol."""

    def __init__(self, folder: Path, end: str, *, adds_bos: bool) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.end_ids = frozenset({self._tokenizer.token_to_id(end)})
        self.bos_id = None
        self.adds_bos = adds_bos

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert parse_special
        return list(self._tokenizer.encode(text, add_special_tokens=add_special).ids)

    def piece(self, token_id: int) -> bytes:
        return str(self._tokenizer.id_to_token(token_id)).encode()

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special


@pytest.fixture(scope="module")
def smollm2(testdata: Path) -> tuple[FileTokenizer, TemplateSource]:
    folder = testdata / "tokenizers" / "smollm2-135m-instruct"
    source = own_template(folder)
    assert source is not None
    return FileTokenizer(folder, "<|im_end|>", adds_bos=False), source


@pytest.fixture(scope="module")
def llama2(testdata: Path) -> FileTokenizer:
    return FileTokenizer(testdata / "tokenizers" / "llama2", "</s>", adds_bos=True)


def findings(source: TemplateSource, tokenizer: FileTokenizer, bos_token: str = "") -> list[tuple[str, str]]:
    template = Template(source)
    ending = derive_ending(template.render, eos_token=source.eos_token)
    return [(found.level, found.sentence) for found in examine(template.render, tokenizer, ending, bos_token=bos_token)]


def test_a_models_own_template_fits(smollm2: tuple[FileTokenizer, TemplateSource]) -> None:
    found = findings(smollm2[1], smollm2[0])
    assert ("ok", "“<|im_end|>” ends a turn and is an end token of the model.") in found
    assert all(level != "problem" for level, _ in found)


def test_a_template_of_another_model(smollm2: tuple[FileTokenizer, TemplateSource], shipped: TemplateLibrary) -> None:
    found = findings(shipped.read("Llama 3"), smollm2[0])
    assert any(level == "problem" and "“<|eot_id|>” is not a special token" in sentence for level, sentence in found)


def test_bos_twice_once_and_missing(llama2: FileTokenizer, shipped: TemplateLibrary) -> None:
    source = for_model(shipped.read("Mistral"), bos_token="<s>", eos_token="</s>", adds_bos=True)
    assert ("ok", "The template writes “<s>” once at the front.") in findings(source, llama2, "<s>")
    doubled = source.model_copy(update={"text": "{{ bos_token }}" + source.text})
    assert any("twice at the front" in sentence for _, sentence in findings(doubled, llama2, "<s>"))
    without = source.model_copy(update={"bos_token": ""})
    assert any("does not write it" in sentence for _, sentence in findings(without, llama2, "<s>"))


@pytest.mark.parametrize(
    ("text", "level", "part"),
    [
        ("{{ raise_exception('no') }}", "problem", "refuses this conversation: no"),
        ("{{ 'Hello' }}", "problem", "leaves out what the user writes"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "problem", "Nothing marks the end"),
        ("{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</s>' }}{% endfor %}", "problem", "no beginning of an assistant turn"),
        ("{% for m in messages %}{{ '\n' + m.role + ': ' + m.content }}{% endfor %}", "note", "replies are stopped at “user:”"),
        ("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", "problem", "leaves out the system text"),
        ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}", "note", "put in front of the first"),
        (
            "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}{{ m.content + '</s>' }}{% endfor %}",
            "note",
            "refuses two user messages in a row and a greeting first",
        ),
    ],
)
def test_what_is_wrong_is_told(llama2: FileTokenizer, text: str, level: str, part: str) -> None:
    template = Template(TemplateSource(text=text, origin="test"))
    ending = derive_ending(template.render) if "raise_exception('no')" not in text else derive_ending(Template(TemplateSource(text="x", origin="x")).render)
    found = examine(template.render, llama2, ending)
    assert any(one.level == level and part in one.sentence for one in found), found


def test_bos_rules() -> None:
    assert needs_bos("Once", "<s>")
    assert not needs_bos("<s>Once", "<s>")
    assert needs_bos("Once", "")
    assert single_bos("<s><s><s>[INST]", "<s>") == "<s>[INST]"
    assert single_bos("[INST]", "<s>") == "[INST]"
    assert single_bos("<s>a<s><s>", "<s>") == "<s>a<s><s>"
    assert single_bos("ab", "") == "ab"


def test_a_model_that_adds_no_bos_gets_none_from_our_templates(shipped: TemplateLibrary) -> None:
    source = for_model(shipped.read("ChatML"), bos_token="<|endoftext|>", eos_token="<|im_end|>", adds_bos=False)
    assert (source.bos_token, source.eos_token) == ("", "<|im_end|>")


class ObligingTokenizer:
    """A vocabulary in which every word that looks like a control token is one, and every end of a turn ends a reply."""

    vocab_size = 0
    bos_id = None
    adds_bos = False

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset(self._ids.values())

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert parse_special
        assert not add_special
        return [self._ids.setdefault(text, len(self._ids))]

    def piece(self, token_id: int) -> bytes:
        return next(text for text, known in self._ids.items() if known == token_id).encode()

    def is_special(self, token_id: int) -> bool:
        return True


@pytest.mark.parametrize("name", NAMES)
def test_nothing_speaks_against_the_templates_of_real_models_on_their_vocabularies(renderer: TemplateRenderer, name: str) -> None:
    source = TemplateSource(text=template_text(name), origin=name, bos_token="<s>", eos_token="</s>")
    found = doubts(renderer, source, ObligingTokenizer())
    if name == NEEDS_TOOLS:
        assert "Choose another template" in found[0]
    else:
        assert found == ()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (CHATML + BEGUN, ""),
        (CHATML + BEGUN.replace("assistant", "bot"), "begins a reply with “<|im_start|>bot”, but writes “<|im_start|>assistant” before the replies"),
        (CHATML, "no beginning of an assistant turn"),
        (CHATML.replace("m.role +", "'<|role|>' + m.role +") + BEGUN.replace("assistant", "<|role|>assistant"), "The template writes “<|role|>”, which this model does not know"),
        ((CHATML + BEGUN).replace("im_end", "end_of_turn"), "“<|end_of_turn|>” is not a special token"),
        (CHATML.replace("%}{{", "%}{% if m.role != 'system' %}{{").replace("{% endfor", "{% endif %}{% endfor") + BEGUN, "leaves out the system text"),
        ("{% for m in messages %}{{ m.text.strip() }}{% endfor %}", "The chat template (a file) failed"),
        ("{% for m in messages", "The chat template (a file)"),
        (CHATML + BEGUN + "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "(a file)"),
    ],
)  # fmt: skip
def test_each_doubt_is_one_sentence_with_a_cure(smollm2: tuple[FileTokenizer, TemplateSource], renderer: TemplateRenderer, text: str, part: str) -> None:
    found = doubts(renderer, TemplateSource(text=text, origin="a file", eos_token="<|im_end|>"), smollm2[0])
    if not part:
        assert found == ()
        return
    assert len(found) == 1, found
    assert part in found[0]
    assert found[0].endswith((".", "?"))


def test_tokens_that_the_model_was_trained_on_as_text_are_no_doubt(llama2: FileTokenizer, shipped: TemplateLibrary, renderer: TemplateRenderer) -> None:
    source = for_model(shipped.read("Zephyr"), bos_token="<s>", eos_token="</s>", adds_bos=True)
    assert doubts(renderer, source, llama2) == ()
    assert ("note", "The template writes “<|user|>”, “<|assistant|>” as plain text; this model's vocabulary has no special tokens of that kind.") in findings(source, llama2, "<s>")


def test_an_examination_that_runs_out_of_time_says_nothing(smollm2: tuple[FileTokenizer, TemplateSource], monkeypatch: pytest.MonkeyPatch, renderer: TemplateRenderer) -> None:
    broken = TemplateSource(text="{% for m in messages %}{{ 'Human: ' }}{% endfor %}", origin="a file")
    assert doubts(renderer, broken, smollm2[0])
    monkeypatch.setattr("modules.prompts.doctor.EXAMINATION_S", -1.0)
    assert doubts(renderer, broken, smollm2[0]) is None
