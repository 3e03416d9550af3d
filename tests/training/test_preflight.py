"""The look before a run: what it counts, shows, advises and refuses, and that a failed trial of two steps leaves the rest standing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.core.errors import AppError
from modules.core.job import Cancelled
from modules.core.model import TemplateSource
from modules.training.advice import Figures, advice_of
from modules.training.examination import Counts, TemplateFinding
from modules.training.options import TrainingOptions
from modules.training.preflight import LIMIT_BYTES, examine
from modules.training.probe import Probe
from modules.training.samples import IGNORED, DatasetSpec, Encoded
from modules.training.spec import EXAMINATION, ExamineArgs, TrainArgs
from modules.training.token_view import BARS, SHOWN_TOKENS, bars_of, pieces_of
from modules.training.tokens import PlacedTokenizer, load_tokenizer
from tests.tiny_models import SPECIAL, TEMPLATE, write_folder

CHAT = TemplateSource(text=TEMPLATE, origin="its own", bos_token=SPECIAL[0], eos_token=SPECIAL[2])


class Context:
    """Keeps what it is told; cancels after so many words."""

    def __init__(self, directory: Path, patience: int = 10**6) -> None:
        self.directory, self.secrets = directory, {}
        self.phases: list[str] = []
        self._patience = patience

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        self.phases.append(str(metrics.get("phase")))
        if len(self.phases) > self._patience:
            raise Cancelled

    def log(self, line: str) -> None:
        pass


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def placed(base: Path) -> PlacedTokenizer:
    return PlacedTokenizer(load_tokenizer(base))


def chats(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"Question {number} {'why ' * (number % 7)}"}, {"role": "assistant", "content": f"Reply {number * 37} ünd 🙂"}]} | more
        for number in range(count)
    ]


def look(base: Path, folder: Path, rows: list[Any], *, probe: bool = False, patience: int = 10**6, template: TemplateSource | None = CHAT, **options: Any) -> dict[str, Any]:
    kind: Any = "text" if "text" in rows[0] else "preference" if "chosen" in rows[0] else "feedback" if "label" in rows[0] else "messages"
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    defaults = {"threads": 1, "batch_size": 4, "rank": 4, "drop_duplicates": False, "held_out_percent": 0}
    run = TrainArgs(
        name="new", base="tiny", base_path=base, dataset=DatasetSpec(path=path, format=kind, columns={name: name for name in rows[0]}), template=template,
        loras_dir=folder, options=TrainingOptions(**{**defaults, **options}),
    )  # fmt: skip
    context = Context(folder, patience)
    result = examine(ExamineArgs(run=run, probe=probe), context)
    text = (folder / EXAMINATION).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    assert len(text.encode()) <= LIMIT_BYTES
    assert result["verdict"] == found["verdict"] and result["sentence"] == found["sentence"]
    return found


def told(found: dict[str, Any], part: str) -> bool:
    return any(part in sentence for sentence in found["advice"])


def test_a_chat_set_is_counted_and_shown(base: Path, tmp_path: Path) -> None:
    rows = chats(100)
    found = look(base, tmp_path, [*rows, rows[0], {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": ""}]}], held_out_percent=20)
    counts = found["counts"]
    assert counts["exact"] == 1 and counts["unlearned"] + counts["empty"] <= 1
    assert counts["samples"] + counts["held_out"] == 102 and counts["held_out"] == counts["held_out_sequences"] > 10
    assert counts["sequences"] == counts["samples"] - counts["unlearned"]
    assert found["verdict"] == "green" and found["sentence"].endswith(f"samples will be learned in {found['steps']} steps.")
    assert found["steps"] == pytest.approx(3 * found["steps_per_epoch"], abs=1) and found["template"] == "its own"
    assert {one["level"] for one in found["findings"]} <= {"ok", "note"}
    assert sum(bar["count"] for bar in found["lengths"]) == counts["sequences"] and found["lengths"][0]["from"] == 0
    first = found["samples"][0]
    assert first["why"] == "first" and first["where"].startswith("data.jsonl")
    learned = "".join(piece["text"] for piece in first["tokens"] if piece["kind"] == "trained")
    assert learned.startswith("Reply ") and learned.endswith("ünd 🙂<|im_end|>")
    longest = max(found["samples"], key=lambda one: one["count"])
    assert longest["count"] == found["longest_tokens"]
    assert found["probe"] is None


def test_two_steps_are_tried(base: Path, tmp_path: Path) -> None:
    found = look(base, tmp_path, chats(40), probe=True, epochs=8)
    probe = found["probe"]
    assert probe["problem"] == "" and probe["seconds_per_step"] > 0 and probe["steps"] == found["steps"] and probe["trainable"] > 0
    assert not list(tmp_path.glob("probe-*"))


def test_without_room_the_rest_stands(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.loaders.machine.available_bytes", lambda: 1 << 20)
    found = look(base, tmp_path, chats(40), probe=True)
    assert found["verdict"] == "amber" and "look at the advice" in found["sentence"]
    assert "is free" in found["probe"]["problem"] and found["advice"][0] == found["probe"]["problem"]
    assert found["counts"]["sequences"] == 40 and found["samples"]


def test_a_model_that_cannot_be_adapted_leaves_the_rest(base: Path, tmp_path: Path) -> None:
    found = look(base, tmp_path, chats(40), probe=True, target_all=False, target_modules=("no_such_layer",))
    assert "no_such_layer" in found["probe"]["problem"] and found["counts"]["sequences"] == 40


@pytest.mark.parametrize(("rows", "options", "sentence"), [
    ([{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}] * 3, {}, "Nothing would be trained: of 3 samples 3 have no reply"),
    (chats(4), {"cutoff_tokens": 8}, "Nothing would be trained: of 4 samples 4 are too long"),
    ([{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "label": True}] * 3, {}, "set preference to kto"),
    (chats(3), {"processes": 4}, "3 samples cannot be shared by 4 devices"),
    (chats(3), {"template": None}, "choose a prompt template"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_plainly(base: Path, tmp_path: Path, rows: list[Any], options: dict[str, Any], sentence: str) -> None:
    found = look(base, tmp_path, rows, probe=True, **options)
    assert found["verdict"] == "red" and sentence in found["sentence"]
    assert found["probe"] is None and found["steps"] == 0 and found["counts"]["samples"] > 0


def test_a_template_of_another_model_is_found_out(base: Path, tmp_path: Path) -> None:
    source = CHAT.model_copy(update={"text": TEMPLATE.replace("<|im_end|>", "<|eot_id|>").replace("<|im_start|>", "<|start_header_id|>"), "origin": "foreign"})
    found = look(base, tmp_path, chats(40), template=source)
    assert found["verdict"] == "amber" and told(found, "the template was made for another model")


def test_cut_samples_are_shown_with_what_is_lost(base: Path, tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "word " * 300}]}
    found = look(base, tmp_path, [*chats(10), long], cutoff_tokens=64)
    cut = next(one for one in found["samples"] if one["why"] == "longest")
    assert found["counts"]["cut"] >= 1 and "cut" in {piece["kind"] for piece in cut["tokens"]} and cut["count"] > 300
    assert found["limit_tokens"] == 64 and found["longest_tokens"] == cut["count"]


def test_texts_need_no_template(base: Path, tmp_path: Path) -> None:
    found = look(base, tmp_path, [{"text": f"A bird {number} sang in the morning. " * 3} for number in range(30)], template=None)
    assert found["verdict"] == "green" and found["template"] == "" and found["findings"] == [] and found["counts"]["sequences"] == 30


def test_new_tokens_that_no_sample_has(base: Path, tmp_path: Path) -> None:
    rows = chats(30)
    rows[3]["messages"][1]["content"] += " zorbly"
    found = look(base, tmp_path, rows, new_tokens=("zorbly", "frobnak"))
    assert told(found, "“frobnak” is in no sample") and not told(found, "zorbly")


def test_a_huge_set_of_long_samples_stays_small(base: Path, tmp_path: Path) -> None:
    pairs = [{"prompt": "q", "chosen": f"{number} " + '"\\' * 900, "rejected": "\t" * 900 + str(number)} for number in range(12)]
    found = look(base, tmp_path, pairs)
    assert found["samples"] and {one["role"] for one in found["samples"]} == {"chosen", "rejected"}


def test_a_stop_is_obeyed(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        look(base, tmp_path, chats(200), patience=4)
    assert not (tmp_path / EXAMINATION).exists()


def test_unreadable_data_fails_as_a_whole(base: Path, tmp_path: Path) -> None:
    with pytest.raises(AppError, match="line 2"):
        look(base, tmp_path, [chats(1)[0], {"messages": 5}])


# ---- tokens as people see them -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60), limit=st.integers(1, 80))
def test_pieces_are_the_text(placed: PlacedTokenizer, text: str, limit: int) -> None:
    found = placed.place(text)
    one = Encoded(found.ids, found.ids, "x")
    pieces = pieces_of(one, limit, placed.pieces.piece)
    assert "".join(piece.text for piece in pieces) == text.encode("utf-8", "replace").decode()
    assert len(found.ids) <= limit or "cut" in {piece.kind for piece in pieces} or len(pieces) < len(found.ids)


def test_a_letter_of_several_tokens_is_one_piece(placed: PlacedTokenizer) -> None:
    ids = placed.place("a🙂b").ids
    pieces = pieces_of(Encoded(ids, (IGNORED, *ids[1:]), "x"), 100, placed.pieces.piece)
    assert [(piece.text, piece.kind) for piece in pieces] == [("a", "ignored"), ("🙂", "trained"), ("b", "trained")]


@pytest.mark.parametrize(("length", "limit"), [(5000, 3000), (5000, 4990), (5000, 10), (5000, 6000), (SHOWN_TOKENS + 1, 10**6)])
def test_of_long_sequences_the_parts_that_matter_are_shown(length: int, limit: int) -> None:
    one = Encoded(tuple(range(length)), tuple(range(length)), "x")
    pieces = pieces_of(one, limit, lambda number: f"<{number}>".encode())
    shown = [piece for piece in pieces if piece.kind != "left_out"]
    left_out = sum(int(piece.text.strip("… tokens").replace(",", "")) for piece in pieces if piece.kind == "left_out")
    assert len(shown) == SHOWN_TOKENS and len(shown) + left_out == length
    texts = {piece.text: piece.kind for piece in shown}
    assert texts["<0>"] == "trained"
    if limit < length:
        assert texts[f"<{limit}>"] == "cut" and texts[f"<{limit - 1}>"] == "trained"
    else:
        assert f"<{length - 1}>" in texts


@given(st.lists(st.integers(1, 100_000), max_size=50))
def test_bars_count_everything_once(lengths: list[int]) -> None:
    bars = bars_of(lengths)
    assert sum(bar.count for bar in bars) == len(lengths) and len(bars) <= BARS
    assert all(bar.count == sum(bar.begin <= length < bar.to for length in lengths) for bar in bars)


# ---- advice ------------------------------------------------------------------------------------------------------------

GOOD = {
    "options": TrainingOptions(), "limit_tokens": 1024, "known_tokens": 4096, "steps": 300, "padding_share": 0.1, "typical_learned": 40.0, "prefers": False,
    "counts": Counts(samples=1000, sequences=1000, trained_tokens=40_000, ignored_tokens=60_000, held_out=50, held_out_sequences=50),
}  # fmt: skip


def counted(**more: Any) -> dict[str, Any]:
    return {"counts": GOOD["counts"].model_copy(update=more)}  # type: ignore[attr-defined]


def chosen(**more: Any) -> dict[str, Any]:
    return {"options": TrainingOptions(**more)}


def test_nothing_is_said_of_a_good_run() -> None:
    assert advice_of(Figures(**GOOD)) == ()  # type: ignore[arg-type]


@pytest.mark.parametrize(("figures", "sentence", "warns"), [
    (counted(cut=200), "200 of 1,000 sequences are longer than 1,024 tokens and lose their end; raise cutoff_tokens (the model knows 4,096 positions)", True),
    ({**counted(cut=200), "known_tokens": 1024}, "lose their end; shorten the samples", True),
    (counted(cut=3), "3 of 1,000 sequences", False),
    (counted(dropped=300), "300 samples are longer", True),
    (counted(exact=100, near=200), "300 of 1,350 samples are the same as", False),
    ({**counted(exact=300), **chosen(drop_duplicates=False)}, "turn drop_duplicates on", False),
    (counted(held_out=8, held_out_sequences=8), "Only 8 sequences are held out", False),
    (counted(held_out=0, held_out_sequences=0), "Nothing is held out", False),
    (counted(trained_tokens=500, ignored_tokens=99_500), "Only 0.5% of the tokens are learned", False),
    ({**counted(refused=7), "problems": ("a.jsonl, line 3: no.",)}, "The first: a.jsonl, line 3: no.", True),
    ({"typical_learned": 2.0}, "fewer than 3 learned tokens", True),
    ({"padding_share": 0.6}, "60% of what is computed would be padding; turn packing on", False),
    ({"steps": 4}, "only 4 steps", False),
    ({"cannot_stop": True}, "cannot learn to stop", True),
    ({"opens_thinking": "<think>"}, "begins replies with <think>", False),
    ({"findings": (TemplateFinding(level="problem", sentence="Bad."),)}, "Bad.", True),
    ({"probe": Probe(problem="No room.")}, "No room.", True),
    ({"probe": Probe(hours=50)}, "about 50 hours", False),
    (chosen(learning_rate=0.05), "A learning rate of 0.05 is very high", True),
    (chosen(learning_rate=1e-8), "so low that nothing may be learned", True),
    ({**chosen(learning_rate=1e-3), "prefers": True}, "2e-05 is usual", True),
    (chosen(epochs=40), "learns by heart", False),
    (chosen(cutoff_tokens=9000), "cutoff_tokens is 9,000 and the model knows 1,024 positions", False),
])  # fmt: skip
def test_advice_names_the_cure(figures: dict[str, Any], sentence: str, warns: bool) -> None:
    found = advice_of(Figures(**{**GOOD, **figures}))
    assert [(sentence in one.sentence, one.warns) for one in found] == [(True, warns)]


def test_what_warns_comes_first() -> None:
    found = advice_of(Figures(**{**GOOD, "steps": 4, "cannot_stop": True}))
    assert [one.warns for one in found] == [True, False]
