"""Grammars as files: those that ship are right and write what they say, wrong ones are refused with their line, files are never torn."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.errors import Conflict, InvalidRequest, NotFound
from modules.core.params import GenerationParams
from modules.engine.constraints import Constraints
from modules.services.grammars import GrammarService
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer

SHIPPED = {
    "Arithmetic": ("3 * (4 + 5) = 27\n", "3 * = 27\n"),
    "JSON": ('{"a": [1, true, "b\\n"]}', '{"a": [1, true, }'),
    "List": ("- one\n- two\n", "one\n"),
    "Yes or no": ("No, it is late.", "Perhaps, it is late."),
}


@pytest.fixture
def grammars(tmp_path: Path) -> GrammarService:
    return GrammarService(tmp_path)


def writes(grammar: str, text: str) -> bool:
    constraint = Constraints(ByteTokenizer(), VOCAB_SIZE).constraint(GenerationParams(grammar=grammar), frozenset({EOS}))
    assert constraint is not None
    for token_id in text.encode():
        if not constraint.allows(token_id):
            return False
        constraint.advance(token_id)
    return constraint.finished or constraint.allows(EOS)


def test_the_shipped_grammars_write_what_they_say(root: Path) -> None:
    shipped = GrammarService(root / "presets")
    assert set(SHIPPED) <= set(shipped.names())
    for name, (right, wrong) in SHIPPED.items():
        text = shipped.read(name)
        assert shipped.problem(text) == "", name
        assert writes(text, right), name
        assert not writes(text, wrong), name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('root ::= "a"\nb ::= (', ("line 2, column 8", "not closed")),
        ("root ::= " + "(" * 5000, ("line 1", "32 groups")),
        ('root ::= "a" root', ("never comes to an end",)),
        ("x" * 70_000, ("70,000", "65,536")),
        ('root ::= "a"{999999999}', ("line 1",)),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_before_anything_runs(grammars: GrammarService, text: str, words: tuple[str, ...]) -> None:
    assert all(word in grammars.problem(text) for word in words), grammars.problem(text)
    with pytest.raises(InvalidRequest):
        grammars.save("Bad", text)
    assert grammars.names() == ()


def test_grammars_are_saved_found_by_their_text_and_deleted(grammars: GrammarService, tmp_path: Path) -> None:
    assert (grammars.names(), grammars.named('root ::= "a"'), grammars.problem("")) == ((), "", "")
    assert grammars.save(" Mine ", 'root ::= "a"\n\n') == "Mine"
    assert (tmp_path / "grammars" / "Mine.gbnf").read_text() == 'root ::= "a"\n'
    with pytest.raises(Conflict, match="already a grammar “Mine”"):
        grammars.save("Mine", 'root ::= "b"')
    grammars.save("Mine", 'root ::= "b"', overwrite=True)
    (tmp_path / "grammars" / "ours.gbnf").write_bytes(b"\xff")
    assert grammars.names() == ("Mine", "ours")
    assert (grammars.named('root ::= "b"'), grammars.named('root ::= "a"')) == ("Mine", "")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        grammars.read("ours")
    for name in ("../x", "a/b", ".hidden", ""):
        for call in (lambda name=name: grammars.read(name), lambda name=name: grammars.save(name, 'root ::= "a"'), lambda name=name: grammars.delete(name)):
            with pytest.raises(InvalidRequest):
                call()
    with pytest.raises(InvalidRequest, match="no grammar to save"):
        grammars.save("Empty", "  ")
    grammars.delete("Mine")
    for gone in (grammars.read, grammars.delete):
        with pytest.raises(NotFound):
            gone("Mine")
