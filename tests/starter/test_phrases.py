"""The question patterns: they expand, they are recognised, and no evaluation question can come out of one."""

import random

import pytest

from tools.starter import dialogue, exchanges, topics
from tools.starter.phrases import PatternError, normalise, parse
from tools.starter.questions import typed


@pytest.fixture(scope="module")
def intents():
    return topics.load_intents()


@pytest.mark.parametrize(("source", "texts"), [
    ("(a|b) c", {"a c", "b c"}),
    ("x (|y) z, please", {"x z, please", "x y z, please"}),
    ("<pet> (big|(very |)small)", {"cat big", "dog big", "cat very small", "dog very small", "cat small", "dog small"}),
])
def test_pattern_expands_to_exactly_its_texts(source, texts):
    pattern = parse(source, {"pet": ["cat", "dog"]})
    rng = random.Random(0)
    assert {pattern.sample(rng) for _ in range(200)} == texts
    assert all(pattern.regex().fullmatch(normalise(text)) for text in texts)
    assert not pattern.regex().fullmatch("something else")


@pytest.mark.parametrize("source", ["(a|b", "a)", "<unknown> x"])
def test_bad_pattern_is_refused(source):
    with pytest.raises(PatternError):
        parse(source, {})


def test_every_pattern_recognises_what_it_produces(intents):
    rng = random.Random(3)
    for intent in intents:
        for pattern in intent.patterns:
            text = pattern.sample(rng)
            assert pattern.regex().fullmatch(normalise(text)), (intent.name, pattern.source, text)


def test_typing_keeps_the_question_when_nothing_is_drawn_and_changes_it_over_many_draws():
    rng = random.Random(5)
    forms = {typed("how do i load a model", rng) for _ in range(300)}
    assert {"how do i load a model", "How do I load a model?"} <= forms
    assert len(forms) > 60


def test_held_back_questions_are_many_and_no_pattern_produces_one(intents):
    checks = topics.load_checks(topics.HELD_BACK)
    assert len(checks) >= 100
    assert len({normalise(check.question) for check in checks}) == len(checks)
    expressions = [pattern.regex() for intent in intents for pattern in intent.patterns]
    asked = [normalise(check.question) for check in checks]
    assert [text for text in asked if any(expression.fullmatch(text) for expression in expressions)] == []


def test_tuning_questions_are_not_held_back_ones():
    held = {normalise(check.question) for check in topics.load_checks(topics.HELD_BACK)}
    assert held.isdisjoint(normalise(check.question) for check in topics.load_checks(topics.TUNING))


def test_training_text_holds_no_evaluation_question(intents):
    forbidden = topics.forbidden_questions()
    writer, rng = dialogue.Writer(intents, forbidden), random.Random(11)
    asked = {normalise(question) for _ in range(3000) for question, _ in writer.exchange(rng)}
    assert len(asked) > 2000
    assert asked.isdisjoint(forbidden)


def test_writer_draws_again_when_a_question_is_forbidden():
    intent = topics.Intent("x", (parse("(count to ten|count for me)", {}),), ("One.",), 1.0)
    allowed = dialogue.Writer((intent,), frozenset({"count to ten"}))
    rng = random.Random(1)
    assert all(normalise(allowed.question(intent, rng)) != "count to ten" for _ in range(50))
    short = topics.Intent("y", (parse("(hi|yo)", {}),), ("Hello!",), 1.0)
    with pytest.raises(ValueError, match="forbidden"):
        dialogue.Writer((short,), frozenset({"hi", "yo"})).question(short, rng)


def test_required_words_fit_their_own_answer_and_no_other(intents):
    answers = {intent.name: intent.answers for intent in intents}
    for check in (*topics.load_checks(topics.HELD_BACK), *topics.load_checks(topics.TUNING)):
        if check.intent == "story":
            continue
        assert all(check.accepts(answer) for answer in answers[check.intent]), check
        assert [name for name in answers if name != check.intent and any(map(check.accepts, answers[name]))] == [], check


def test_made_up_exchanges_answer_their_own_question():
    rng = random.Random(2)
    for _ in range(200):
        question, answer = exchanges.small_sum(rng)[0]
        numbers = [int(word) for word in normalise(question).split() if word.isdigit()]
        assert answer.endswith(f" is {sum(numbers)}.")
        turns = exchanges.remember_colour(rng)
        thing, colour = turns[-1][1].removeprefix("Your ").rstrip(".").split(" is ")
        assert f"my {thing} is {colour}" in turns[0][0]
