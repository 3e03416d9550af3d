from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modules.engine.detokenizer import Detokenizer, PieceTable
from tests.fakes import EOS, MARK, ByteTokenizer


def read(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(PieceTable(ByteTokenizer()))
    return [*(detokenizer.feed(token_id) for token_id in ids), detokenizer.flush()]


@given(st.text())
def test_text_comes_back_and_no_character_is_split(text):
    raw = text.encode("utf-8", "surrogatepass")
    if "\ufffd" in raw.decode("utf-8", "replace"):
        return
    parts = read(list(raw))
    assert "".join(parts) == text
    assert all("\ufffd" not in part for part in parts)


@given(st.binary(max_size=40))
def test_any_bytes_give_what_decoding_at_once_gives(raw):
    assert "".join(read(list(raw))) == raw.decode("utf-8", "replace")


@given(st.lists(st.sampled_from([*"aé€😀".encode(), 0xFF, MARK, EOS]), max_size=30))
def test_special_tokens_add_nothing(ids):
    raw = bytes(token_id for token_id in ids if token_id < 256)
    assert "".join(read(ids)) == raw.decode("utf-8", "replace")


def test_a_broken_character_is_replaced_as_soon_as_that_is_certain():
    euro = list("€".encode())
    assert read([*euro[:2], ord("a")]) == ["", "", "\ufffda", ""]
    assert read(euro[:2]) == ["", "", "\ufffd"]


def test_a_token_by_itself_is_shown_in_its_written_form():
    table = PieceTable(ByteTokenizer())
    assert (table.written(MARK), table.written(0xE2), table.written(65)) == ("<|mark|>", "\ufffd", "A")
