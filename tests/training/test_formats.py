"""Rows become samples: every format in its spellings, from real files and from small ones; what is wrong is named with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest, NotFound
from modules.core.messages import Message
from modules.training.columns import checked_columns
from modules.training.formats import read_samples, recognise, sample_of
from modules.training.rows import DataRow
from modules.training.samples import (
    FORMAT_TITLES,
    MEANINGS,
    NEEDED,
    ChatSample,
    DatasetSpec,
    FeedbackSample,
    Format,
    PairSample,
    Sample,
    TextSample,
)

ASK, REPLY, WORSE = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}, {"role": "assistant", "content": "No"}
CALL = {"type": "function", "function": {"name": "search", "arguments": {"word": "hill"}}}
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


def message(role: str, content: str = "", **more: Any) -> Message:
    return Message.model_validate({"role": role, "content": content, **more})


HELLO, DAY, NO = message("user", "Hello"), message("assistant", "Good day"), message("assistant", "No")


def written(folder: Path, *content: Any, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(item) + "\n" for item in content), encoding="utf-8")
    return path


def samples_of(path: Path, format: Format | None = None, **columns: str) -> list[Sample]:
    """All samples, in the format that is given or recognised."""
    found = recognise(path)
    chosen = format or found.format
    assert chosen is not None, found.problem
    return list(read_samples(DatasetSpec(path=path, format=chosen, columns=columns)))


def only(folder: Path, row: Any, format: Format | None = None, **columns: str) -> Sample:
    (sample,) = samples_of(written(folder, row), format, **columns)
    return sample


def refusal(path: Path, format: Format | None = None, **columns: str) -> str:
    with pytest.raises(InvalidRequest) as told:
        samples_of(path, format, **columns)
    assert told.value.message.endswith("."), told.value.message
    return told.value.message


# Real files: name, format, columns, samples
REAL: tuple[tuple[str, Format, dict[str, str], int], ...] = (
    ("training-formats/alpaca_en_demo.json", "instruction", {"instruction": "instruction", "output": "output", "input": "input"}, 999),
    ("training-formats/instruction-1100.json", "instruction", {"instruction": "instruction", "output": "output", "input": "input"}, 1100),
    ("training-formats/c4_demo.jsonl", "text", {"text": "text"}, 300),
    ("training-formats/wiki_demo.txt", "text", {"text": "text"}, 1),
    ("training-formats/v1_sft_demo.jsonl", "messages", {"messages": "messages"}, 500),
    ("training-formats/glaive_toolcall_en_demo.json", "sharegpt", {"messages": "conversations", "tools": "tools"}, 300),
    ("training-formats/dpo_en_demo.json", "preference", {"chosen": "chosen", "rejected": "rejected", "messages": "conversations"}, 300),
    ("training-formats/preference-1100.json", "preference", {"chosen": "chosen", "rejected": "rejected", "prompt": "instruction", "input": "input"}, 1100),
    ("training-formats/kto_en_demo.json", "feedback", {"label": "label", "messages": "messages"}, 300),
    ("sharegpt/fastchat_dummy_conversation.json", "sharegpt", {"messages": "conversations"}, 500),
    ("soda/tinytalk_chat_val.messages.jsonl", "messages", {"messages": "messages"}, 704),
    ("gsm8k/test.jsonl", "instruction", {"instruction": "question", "output": "answer"}, 1319),
)


@pytest.mark.parametrize(("name", "format", "columns", "count"), REAL, ids=[row[0] for row in REAL])
def test_real_files_are_recognised_and_read_whole(testdata: Path, name: str, format: Format, columns: dict[str, str], count: int) -> None:
    found = recognise(testdata / "datasets" / name)
    assert (found.format, found.columns, found.problem) == (format, columns, "")
    reading = read_samples(DatasetSpec(path=testdata / "datasets" / name, format=format, columns=columns))
    samples = list(reading)
    assert (len(samples), reading.rows, reading.empty) == (count, count, 0)
    assert len({sample.where for sample in samples}) == count


def test_real_tool_calls_keep_their_words(testdata: Path) -> None:
    path = testdata / "datasets" / "training-formats" / "glaive_toolcall_en_demo.json"
    samples = samples_of(path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    calls = 0
    for sample, row in zip(samples, rows, strict=True):
        assert isinstance(sample, ChatSample)
        assert len(sample.tools) == len(json.loads(row["tools"] or "[]"))
        said = [turn["value"] for turn in row["conversations"] if turn["from"] in ("human", "gpt", "observation")]
        assert [turn.content for turn in sample.messages if not turn.tool_calls] == [text for text in said if text in [turn.content for turn in sample.messages if not turn.tool_calls]]
        called = [call["function"] for turn in sample.messages for call in turn.tool_calls or ()]
        assert called == [json.loads(turn["value"]) for turn in row["conversations"] if turn["from"] == "function_call"]
        calls += len(called)
    assert calls == 211


def test_real_pairs_and_marks_say_what_the_file_says(testdata: Path) -> None:
    folder = testdata / "datasets" / "training-formats"
    for sample, row in zip(samples_of(folder / "dpo_en_demo.json"), json.loads((folder / "dpo_en_demo.json").read_text(encoding="utf-8")), strict=True):
        assert isinstance(sample, PairSample)
        assert [sample.chosen.content, sample.rejected.content] == [row["chosen"]["value"], row["rejected"]["value"]]
        assert [turn.content for turn in sample.messages] == [turn["value"] for turn in row["conversations"]]
    for sample, row in zip(samples_of(folder / "kto_en_demo.json"), json.loads((folder / "kto_en_demo.json").read_text(encoding="utf-8")), strict=True):
        assert isinstance(sample, FeedbackSample)
        assert sample.is_good is row["label"]
        assert [*(turn.content for turn in sample.messages), sample.answer.content] == [turn["content"] for turn in row["messages"]]


SPELLINGS: tuple[tuple[Any, Format, tuple[Message, ...]], ...] = (
    ({"messages": [ASK, REPLY]}, "messages", (HELLO, DAY)),
    ([ASK, REPLY], "messages", (HELLO, DAY)),
    ({"conversations": [ASK, REPLY], "id": 3}, "messages", (HELLO, DAY)),
    ({"my chat": [ASK, REPLY], "id": 3}, "messages", (HELLO, DAY)),
    ({"messages": json.dumps([ASK, REPLY])}, "messages", (HELLO, DAY)),
    ({"messages": [ASK, REPLY], "system": "Be kind."}, "messages", (message("system", "Be kind."), HELLO, DAY)),
    ({"messages": [{"role": "system", "content": "A"}, ASK, REPLY], "system": "B"}, "messages", (message("system", "A"), HELLO, DAY)),
    ({"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Good day"}]}, "sharegpt", (HELLO, DAY)),
    ({"conversations": [{"from": "System ", "value": "A"}, {"from": "User", "value": "Hello"}, {"from": "ChatGPT", "value": "Good day"}]}, "sharegpt", (message("system", "A"), HELLO, DAY)),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "value": "lo"}]}, {"role": "assistant", "content": ["Good day"]}]}, "messages", (HELLO, DAY)),
    ({"messages": [ASK, {**REPLY, "reasoning_content": "He greets."}]}, "messages", (HELLO, message("assistant", "<think>\nHe greets.\n</think>\n\nGood day"))),
    ({"instruction": "Hello", "input": "", "output": "Good day"}, "instruction", (HELLO, DAY)),
    ({"Instruction": "Greet", "Input": "Hello", "Response": "Good day"}, "instruction", (message("user", "Greet\nHello"), DAY)),
    ({"prompt": "Hello", "completion": "Good day"}, "instruction", (HELLO, DAY)),
    ({"prompt": [ASK], "completion": [REPLY]}, "instruction", (HELLO, DAY)),
    ({"question": "6 × 7?", "answer": 42}, "instruction", (message("user", "6 × 7?"), message("assistant", "42"))),
    ({"instruction": "Hello", "output": "Good day", "system": "A", "history": [["Q", "R"]]}, "instruction", (message("system", "A"), message("user", "Q"), message("assistant", "R"), HELLO, DAY)),
    ({"instruction": "Hello", "output": '[{"a": 1}]'}, "instruction", (HELLO, message("assistant", '[{"a": 1}]'))),
)  # fmt: skip


@pytest.mark.parametrize(("row", "format", "messages"), SPELLINGS, ids=[json.dumps(row)[:70] for row, _, _ in SPELLINGS])
def test_spellings_of_chat(tmp_path: Path, row: Any, format: Format, messages: tuple[Message, ...]) -> None:
    found = recognise(written(tmp_path, row))
    assert (found.format, found.problem) == (format, "")
    sample = only(tmp_path, row)
    assert isinstance(sample, ChatSample)
    assert sample.messages == messages
    assert sample.where == "a.jsonl, line 1"


PAIRS: tuple[tuple[Any, tuple[Message, ...]], ...] = (
    ({"prompt": "Hello", "chosen": "Good day", "rejected": "No"}, (HELLO,)),
    ({"instruction": "Hello", "input": "", "chosen": "Good day", "rejected": "No", "system": "A"}, (message("system", "A"), HELLO)),
    ({"prompt": [ASK], "chosen": [REPLY], "rejected": [WORSE]}, (HELLO,)),
    ({"chosen": [ASK, REPLY], "rejected": [ASK, WORSE]}, (HELLO,)),
    ({"prompt": "Hello", "chosen": [ASK, REPLY], "rejected": [ASK, WORSE]}, (HELLO,)),
    ({"conversations": [{"from": "human", "value": "Hello"}], "chosen": {"from": "gpt", "value": "Good day"}, "rejected": {"from": "gpt", "value": "No"}}, (HELLO,)),
    ({"messages": [ASK], "chosen": json.dumps([REPLY]), "rejected": json.dumps([WORSE])}, (HELLO,)),
)


@pytest.mark.parametrize(("row", "messages"), PAIRS, ids=[json.dumps(row)[:70] for row, _ in PAIRS])
def test_spellings_of_pairs(tmp_path: Path, row: Any, messages: tuple[Message, ...]) -> None:
    assert recognise(written(tmp_path, row)).format == "preference"
    assert only(tmp_path, row) == PairSample("a.jsonl, line 1", messages, DAY, NO)


MARKS: tuple[tuple[Any, bool], ...] = (
    ({"messages": [ASK, REPLY], "label": True}, True),
    ({"prompt": "Hello", "completion": "Good day", "label": False}, False),
    ({"prompt": [ASK], "completion": [REPLY], "label": 1}, True),
    ({"instruction": "Hello", "input": "", "output": "Good day", "kto_tag": "false"}, False),
    ({"question": "Hello", "answer": "Good day", "label": "bad"}, False),
)


@pytest.mark.parametrize(("row", "is_good"), MARKS, ids=[json.dumps(row)[:70] for row, _ in MARKS])
def test_spellings_of_marks(tmp_path: Path, row: Any, is_good: bool) -> None:
    assert recognise(written(tmp_path, row)).format == "feedback"
    assert only(tmp_path, row) == FeedbackSample("a.jsonl, line 1", (HELLO,), DAY, is_good)


def test_a_number_that_is_no_mark_makes_no_feedback(tmp_path: Path) -> None:
    assert recognise(written(tmp_path, {"text": "a film", "label": 0})).format == "text"
    assert recognise(written(tmp_path, {"prompt": "a", "completion": "b", "label": 4})).format == "instruction"


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **CALL}]}, {"role": "tool", "content": "green", "tool_call_id": "c1"}],
        [{"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"word": "hill"}'}}]}, {"role": "tool", "content": "green", "tool_call_id": "c1"}],
        [{"role": "assistant", "tool_calls": json.dumps([{"id": "c1", "name": "search", "arguments": {"word": "hill"}}])}, {"role": "function", "content": "green", "tool_call_id": "c1"}],
    ],
)  # fmt: skip
def test_tool_calls_of_openai_are_kept(tmp_path: Path, turns: list[Any]) -> None:
    sample = only(tmp_path, {"messages": [ASK, *turns, REPLY], "tools": [TOOL]})
    call = message("assistant", tool_calls=[{"id": "c1", **CALL}])
    assert sample == ChatSample("a.jsonl, line 1", (HELLO, call, message("tool", "green", tool_call_id="c1"), DAY), (TOOL,))


def test_calls_of_sharegpt_join_the_reply_before_them(tmp_path: Path) -> None:
    words = json.dumps({"name": "search", "arguments": {"word": "hill"}})
    turns = [("human", "Hello"), ("gpt", "I look."), ("function_call", words), ("function_call", words), ("observation", "green"), ("gpt", "Good day")]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns], "tools": json.dumps([TOOL["function"]])}
    assert only(tmp_path, row) == ChatSample(
        "a.jsonl, line 1", (HELLO, message("assistant", "I look.", tool_calls=[CALL, CALL]), message("tool", "green"), DAY), (TOOL,)
    )


@pytest.mark.parametrize("mark", [{"loss_weight": 0.0}, {"weight": 0}, {"train": False}])
def test_replies_of_weight_nothing_are_not_learned(tmp_path: Path, mark: dict[str, Any]) -> None:
    row = {"messages": [{**ASK, **mark}, {**REPLY, **mark}, {**ASK, **mark}, {**REPLY, "loss_weight": 1.0}], "system": "A"}
    sample = only(tmp_path, row)
    assert isinstance(sample, ChatSample)
    assert sample.unlearned == {2}
    assert sample.messages[2] == DAY


def test_any_columns_can_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path, {"q": "Hello", "gold": "Good day", "text": "other"})
    assert recognise(path).format == "text"
    assert samples_of(path, "instruction", instruction="q", output="gold", input="") == [ChatSample("a.jsonl, line 1", (HELLO, DAY))]
    assert samples_of(path, "text", text="q") == [TextSample("a.jsonl, line 1", "Hello")]
    assert samples_of(path, "preference", prompt="q", chosen="gold", rejected="text") == [PairSample("a.jsonl, line 1", (HELLO,), DAY, message("assistant", "other"))]


def test_tables_and_parquet_become_the_same_samples(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.csv").write_text('messages,tools\n"' + json.dumps([ASK, REPLY]).replace('"', '""') + '",\n', encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": [ASK, {**REPLY, "tool_calls": [CALL]}], "day": None}]), tmp_path / "a.parquet")
    assert [sample.messages for sample in samples_of(tmp_path / "a.csv") if isinstance(sample, ChatSample)] == [(HELLO, DAY)]
    assert [sample.messages for sample in samples_of(tmp_path / "a.parquet") if isinstance(sample, ChatSample)] == [(HELLO, message("assistant", "Good day", tool_calls=[CALL]))]


def test_dates_and_decimals_of_parquet_are_texts(tmp_path: Path) -> None:
    import datetime
    from decimal import Decimal

    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([{"question": datetime.date(2026, 1, 2), "answer": Decimal("1.50")}]), tmp_path / "a.parquet")
    (sample,) = samples_of(tmp_path / "a.parquet")
    assert isinstance(sample, ChatSample)
    assert [turn.content for turn in sample.messages] == ["2026-01-02", "1.50"]


def test_empty_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, {"instruction": "Hello", "output": "Good day"}, {"instruction": "Hello", "output": " "}, {"instruction": None, "output": "x"}, {"instruction": "", "output": ""})
    reading = read_samples(DatasetSpec(path=path, format="instruction"))
    assert len(list(reading)) == 1
    assert (reading.rows, reading.empty) == (4, 3)
    for row in ({"messages": []}, {"messages": [{"role": "user", "content": ""}]}, {"text": "\n"}, {"prompt": "", "chosen": "a", "rejected": "b"}, {"prompt": "a", "chosen": "a", "rejected": ""}, {"messages": [ASK], "label": True}):
        format = next(each for each in ("messages", "text", "preference", "feedback") if set(NEEDED[each]) <= row.keys() and ("label" in row) == (each == "feedback"))
        assert samples_of(written(tmp_path, row), format) == []


WRONG: tuple[tuple[Format, Any, str], ...] = (
    ("messages", {"messages": "Hello"}, "column “messages”: a list of messages was expected, but this is a text"),
    ("messages", {"messages": [ASK, "Good day"]}, "column “messages”: message 2: a message with role and content was expected, but this is a text"),
    ("messages", {"messages": [ASK, {"content": "x"}]}, "message 2: it names no role; known are ai, answer, assistant"),
    ("messages", {"messages": [ASK, {"role": "robot", "content": "x"}]}, "message 2: the role “robot” is unknown"),
    ("messages", {"messages": [{"role": "user", "content": {"a": 1}}]}, "message 1: a text was expected, but this is an object"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "only parts of text can be learned, but there is a part of the kind “image_url”"),
    ("messages", {"messages": [{"role": "user", "content": "\ud83d"}]}, "half of a character"),
    ("messages", {"messages": [{**REPLY, "loss_weight": -1}]}, "“loss_weight” must be a number from 0 on"),
    ("messages", {"messages": [{**REPLY, "tool_calls": [{"name": 5}]}]}, "the call of a tool must be JSON like"),
    ("messages", {"messages": [ASK, REPLY], "tools": "search"}, "column “tools”: the tools must be a JSON list"),
    ("messages", {"messages": [ASK, REPLY], "tools": [{"name": "\ud83d"}]}, "not plain JSON"),
    ("messages", {"other": [ASK]}, "the column “messages” is missing; this row has “other”"),
    ("sharegpt", {"messages": [{"from": "human", "value": "Hello"}, {"from": "function_call", "value": "search(hill)"}]}, "message 2: the call of a tool must be JSON like"),
    ("instruction", {"instruction": "Hello"}, "the column “output” is missing; this row has “instruction”"),
    ("instruction", {"instruction": "Hello", "output": ["a", "b"]}, "column “output”: a text was expected, but this is a list"),
    ("instruction", {"instruction": "Hello", "output": "b", "history": [["a"]]}, "column “history”: a list of messages, or of pairs"),
    ("text", {"text": {"a": 1}}, "column “text”: a text was expected, but this is an object"),
    ("text", {"body": "x"}, "the column “text” is missing"),
    ("preference", {"prompt": "a", "chosen": "b"}, "the column “rejected” is missing"),
    ("preference", {"chosen": [ASK, REPLY], "rejected": [{"role": "user", "content": "Other"}, WORSE], "prompt": ""}, "begin with different messages"),
    ("preference", {"chosen": [ASK], "rejected": [ASK], "prompt": "a"}, "an answer must be the assistant's, but its last message is of the role “user”"),
    ("feedback", {"messages": [ASK, REPLY], "label": 7}, "the mark must be true or false, 1 or 0, good or bad; got “7”"),
)  # fmt: skip


@pytest.mark.parametrize(("format", "row", "said"), WRONG, ids=[said[:60] for _, _, said in WRONG])
def test_a_wrong_row_is_named_with_file_and_line(tmp_path: Path, format: Format, row: Any, said: str) -> None:
    good = {"messages": [ASK, REPLY], "instruction": "a", "output": "b", "text": "c", "prompt": "d", "chosen": "e", "rejected": "f", "label": True, "tools": "", "history": None}
    columns = {meaning: meaning for meaning in MEANINGS[format] if meaning in good and (meaning != "messages" or format != "preference")}
    columns.pop("prompt" if format == "feedback" else "", None)
    told = refusal(written(tmp_path, good, row), format, **columns)
    assert told.startswith("a.jsonl, line 2: ")
    assert said in told


def test_a_pair_without_a_prompt_says_which_column_to_choose(tmp_path: Path) -> None:
    assert "choose the column that is “prompt” or “messages”" in refusal(written(tmp_path, {"chosen": "a", "rejected": "b"}))


@pytest.mark.parametrize(
    ("format", "columns", "said"),
    [
        ("text", {"text": "gone"}, "the column “gone” is missing"),
        ("instruction", {"instruction": "a", "output": "b", "system": "gone"}, "a.jsonl has no column “gone”; its columns are “a”, “b”."),
        ("instruction", {"instruction": "a"}, "choose the column that is “output”"),
        ("instruction", {"instruction": "a", "output": "b", "colour": "a"}, "“colour” means nothing here"),
        ("feedback", {"label": "a", "prompt": "a"}, "choose the column that is “messages”, or those that are “prompt” and “answer”"),
        ("messages", {}, "which column of a.jsonl is “messages” cannot be told; its columns are “a”, “b”"),
        ("feedback", {}, "which column of a.jsonl is “label” cannot be told"),
    ],
)
def test_a_wrong_choice_of_columns_is_told(tmp_path: Path, format: Format, columns: dict[str, str], said: str) -> None:
    assert said in refusal(written(tmp_path, {"a": "1", "b": "2"}), format, **columns)


def test_recognition_tells_what_hinders(tmp_path: Path) -> None:
    assert "cannot be told from their names" in recognise(written(tmp_path, {"turns": ["a"], "n": 1})).problem
    assert "is empty" in recognise(written(tmp_path)).problem
    wrong = recognise(written(tmp_path, {"text": "a"}, {"text": 5}, {"text": []}))
    assert wrong.format == "text"
    assert wrong.problem.startswith("a.jsonl, line 3: column “text”")
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n{"text"\n')
    broken = recognise(tmp_path / "b.jsonl")
    assert (broken.format, len(broken.rows)) == ("text", 1)
    assert broken.problem.startswith("b.jsonl, line 2 is not JSON")
    unfit = recognise(written(tmp_path, {"messages": "Hello"}))
    assert unfit.format == "messages"
    assert unfit.problem.startswith("a.jsonl, line 1: column “messages”: a list of messages was expected")
    with pytest.raises(NotFound):
        recognise(tmp_path / "gone.jsonl")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no format of a data set"):
        checked_columns("poem", {})


def test_every_format_has_meanings_and_those_it_needs() -> None:
    for format in FORMAT_TITLES:
        assert set(NEEDED[format]) <= set(MEANINGS[format])


words = st.sampled_from(["role", "from", "content", "value", "user", "assistant", "gpt", "function_call", "tool_calls", "name", "messages", "text", "type", "weight", "\ud83d"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=4) | st.lists(inner, max_size=2).map(json.dumps), max_leaves=10
)
turn = st.fixed_dictionaries({"role": words | scalars, "content": values}, optional={"tool_calls": values, "weight": scalars, "name": scalars, "reasoning_content": values})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), format=st.sampled_from(list(FORMAT_TITLES)))
def test_any_row_is_a_sample_or_a_sentence(data: st.DataObject, format: Format) -> None:
    row = data.draw(st.fixed_dictionaries({}, optional={meaning: values | st.lists(turn, max_size=3) for meaning in MEANINGS[format]}))
    columns = {meaning: meaning for meaning in data.draw(st.sets(st.sampled_from(MEANINGS[format]))) | set(NEEDED[format])}
    try:
        sample = sample_of(DataRow("a.jsonl, line 7", row), format, columns)
    except InvalidRequest as error:
        assert error.message.startswith("a.jsonl, line 7: ")
        assert error.message.encode()
        return
    assert sample is None or sample.where == "a.jsonl, line 7"
    if isinstance(sample, ChatSample):
        assert all(sample.messages[place].role == "assistant" for place in sample.unlearned)
        json.dumps([turn.for_template() for turn in sample.messages]).encode()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(["messages", "text", "prompt", "chosen", "label", "a"]), values, max_size=4), max_size=4))
def test_any_file_is_recognised_or_told(tmp_path: Path, rows: list[Any]) -> None:
    found = recognise(written(tmp_path, *rows))
    assert found.format is not None or found.problem
    assert json.dumps(found.problem, ensure_ascii=False).encode() is not None
