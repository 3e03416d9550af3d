"""The card of an adapter: what it says, what it must not say, and that nothing put into it becomes markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from modules.core.model import TemplateSource
from modules.training.card import README, RECORD, RunFacts, readme, record, write_card
from modules.training.card_text import code_block, inline
from modules.training.evidence import Answer, Comparison, Preference, Proof, WorstItem
from modules.training.options import TrainingOptions
from modules.training.samples import DatasetSpec
from modules.training.spec import TrainArgs

SECRET = "/home/somebody/private"
HELD_OUT_TEXT = "a held-out sentence that is nobody's business"
NASTY = "# <script>alert(1)</script> [x](javascript:y) `c` **b** | ~~s~~ ![i](http://a/b) https://evil.example www.evil.example \n\n## heading\n---\n<img src=x> &lt;"


def args(**more: Any) -> TrainArgs:
    values: dict[str, Any] = {
        "name": "captain", "base": "acme/tiny", "base_path": Path(SECRET) / "tiny", "loras_dir": Path(SECRET) / "loras",
        "dataset": DatasetSpec(path=Path(SECRET) / "talk.jsonl", name="talk.jsonl", format="messages"),
        "options": TrainingOptions(rank=8, learning_rate=0.002, nodes=2, rendezvous="10.1.2.3:29500"),
    }  # fmt: skip
    return TrainArgs(**(values | more))


def proof(**more: Any) -> Proof:
    held_out = Comparison(before=2.0, after=1.0, error=0.1, tokens=100, sequences=9, of_sequences=12)
    values: dict[str, Any] = {
        "verdict": "green", "sentence": "Held-out loss fell.", "held_out": held_out, "general": Comparison(before=5.0, after=5.1, tokens=7, sequences=1, of_sequences=1),
        "answers": (Answer(prompt="Who are you?", expected=HELD_OUT_TEXT, base="A model.", adapter="A captain."),),
        "worst": (WorstItem(where="talk.jsonl, line 3", prompt=HELD_OUT_TEXT, answer=HELD_OUT_TEXT, before=3.0, after=None, tokens=4),),
    }  # fmt: skip
    return Proof(**(values | more))


FACTS = RunFacts(
    data_digest="ab" * 32, train_samples=100, held_out_samples=12, exact=3, near=1, trained_tokens=5000, base_fingerprint={"model_type": "llama", "weights": "c" * 64}, trainable=1000,
    parameters=100_000, steps=30, planned_steps=40, epochs=2.25, seconds=130, device="a processor", ended="Ended early: as the person wished.", ended_s=1_700_000_000,
    curve=tuple({"step": step, "loss": 3.0 - step / 20, "learning_rate": 0.001} for step in range(1, 31)),
)  # fmt: skip


def front_matter(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_the_front_is_what_the_hub_expects() -> None:
    found = front_matter(readme(args(), proof(), FACTS))
    assert found == {"base_model": "acme/tiny", "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "paddock"]}
    assert "license" not in found, "that is the person's to choose"
    pairs = args(dataset=DatasetSpec(path=Path("p.jsonl"), format="preference"))
    assert "dpo" in front_matter(readme(pairs, None, FACTS))["tags"]


@pytest.mark.parametrize("base", ["starter", "my model", "a/b/c", "../x/y"])
def test_a_base_that_is_not_of_the_hub_is_not_claimed_to_be(base: str) -> None:
    assert "base_model" not in front_matter(readme(args(base=base), None, FACTS))
    known = FACTS.model_copy(update={"base_repository": "acme/real"})
    assert front_matter(readme(args(base=base), None, known))["base_model"] == "acme/real"


def test_figures_for_people() -> None:
    text = readme(args(), proof(), FACTS)
    for said in (
        "| held-out items: loss | 2.000 | 1.000 | -50.0% |", "9 of 12 items", "| samples learned | 100 |", "3 the same, 1 nearly the same", "30 of 40", "1,000 (1.00% of 100,000)",
        "| rank | 8 | 16 |", "ab" * 32, "2023-11-14", "as the person wished", "2 min",
    ):  # fmt: skip
        assert said in text, said
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.split(" | ")[0][2:].isdigit()]
    assert rows[0].startswith("| 1 | ")
    assert rows[-1].startswith("| 30 | ")
    assert len(rows) <= 12


def test_no_path_address_or_held_out_text_leaves_this_machine(tmp_path: Path) -> None:
    whole = args(held_out=DatasetSpec(path=Path(SECRET) / "test.jsonl", format="messages"), continue_from=Path(SECRET) / "loras" / "earlier")
    write_card(tmp_path, whole, proof(), FACTS)
    for file in (README, RECORD):
        text = (tmp_path / file).read_text(encoding="utf-8")
        assert "somebody" not in text
        assert "10.1.2.3" not in text
        assert HELD_OUT_TEXT not in text
        assert "A captain." not in text, "prompts that nobody chose are held-out ones"
    known = json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))
    assert known["args"]["continue_from"] == "earlier"
    assert known["args"]["held_out"]["path"] == "test.jsonl"
    assert known["proof"]["worst"] == [{"where": "talk.jsonl, line 3", "before": 3.0, "after": None, "tokens": 4}]
    assert known["base_fingerprint"] == FACTS.base_fingerprint


def test_prompts_that_the_person_chose_are_shown() -> None:
    text = readme(args(prompts=("Who are you?",)), proof(), FACTS)
    assert "A captain." in text
    assert HELD_OUT_TEXT not in text


def test_the_record_is_enough_to_do_it_again() -> None:
    known = record(args(), proof(), FACTS)
    options = known["args"]["options"] | {"rendezvous": "first:29500"}
    assert TrainingOptions.model_validate(options) == TrainingOptions(rank=8, learning_rate=0.002, nodes=2, rendezvous="first:29500")
    assert {"python", "torch", "transformers", "peft", "paddock"} <= set(known["versions"])
    assert json.loads(json.dumps(known, allow_nan=False)) == known


@pytest.mark.parametrize("field", ["name", "base", "notes", "sentence", "device", "dataset", "template"])
def test_nothing_becomes_markup(field: str) -> None:
    """Rendered with raw HTML allowed and addresses linked, as a page of the hub may do it, there is no more markup than with a plain word."""
    plain, nasty = (_rendered(_with(field, value)) for value in ("word", NASTY[:100] if field == "name" else NASTY))
    for mark in ("<h1", "<h2", "<h3", "<a ", "<img", "<script", "<code", "<strong", "<s>", "<hr", "<td", "<tr"):
        assert nasty.count(mark) == plain.count(mark), mark


def _rendered(text: str) -> str:
    body = text.split("---\n", 2)[2]
    body = body.replace("```", "~~~")
    return str(MarkdownIt("gfm-like", {"html": True}).render(body))


def _with(field: str, value: str) -> str:
    facts, proven, run = FACTS, proof(), args()
    if field == "device":
        facts = FACTS.model_copy(update={"device": value})
    elif field == "sentence":
        proven = proof(sentence=value)
    elif field == "dataset":
        run = args(dataset=DatasetSpec(path=Path("x"), name=value, format="messages"))
    elif field == "template":
        run = args(template=TemplateSource(text="x", origin="y"), template_name=value)
    else:
        run = args(**{field: value})
    return readme(run, proven, facts)


@pytest.mark.parametrize("text", ["```\n# out\n```", "````", "a\n~~~\n", "\u202eabc\x1b[31m", ""])
def test_code_keeps_what_is_in_it(text: str) -> None:
    tokens = MarkdownIt().parse(code_block(text) + "\n\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    shown = tokens[0].content
    assert "\u202e" not in shown
    assert "\x1b" not in shown
    assert text.replace("\u202e", "").replace("\x1b", "").strip("\n") == shown.strip("\n")


@pytest.mark.parametrize("text", ["1. one", "- one", "+ one", "# one", "> one", "=== ", "---", "12) x", "* one", "a_b*c*", "![x](y)", "&amp;", "1.5 and -3"])
def test_a_line_of_text_is_text(text: str) -> None:
    shown = MarkdownIt("gfm-like").render(inline(text))
    assert shown.startswith("<p>")
    import html

    assert html.unescape(shown.removeprefix("<p>").removesuffix("</p>\n")) == text.strip()


def test_without_a_proof_it_says_so() -> None:
    text = readme(args(), None, FACTS)
    assert "Nothing was measured" in text
    assert record(args(), None, FACTS)["proof"] is None


def test_preferences_and_losses_that_are_no_numbers() -> None:
    broken = proof(
        verdict="red", held_out=Comparison(before=2.0, after=None, tokens=1, sequences=1, of_sequences=1), preference=Preference(items=8, before=0.5, after=0.75, moved=0.625)
    )
    text = readme(args(), broken, FACTS)
    assert "| held-out items: loss | 2.000 |  | not a number |" in text
    assert "| pairs whose better answer is likelier | 50% | 75% |  |" in text
    assert "| items that moved towards the better answer |  | 62% |  |" in text


@pytest.mark.parametrize("options", [{"dora": True}, {"train_embeddings": True}, {"new_tokens": ("<x>",)}])
def test_what_llama_cpp_cannot_use_is_told(options: dict[str, Any]) -> None:
    text = readme(args(options=TrainingOptions(**options)), None, FACTS)
    assert "Merge it" in text
    assert "Merge it" not in readme(args(), None, FACTS)
