"""Personal data: what is found of each kind and what is not, what marks look like, and that no text takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.training.personal import (
    FINDERS,
    KIND_TITLES,
    MARKS,
    Kind,
    Redactor,
    find_personal,
    names_in,
    redacted,
)

ALL = tuple(KIND_TITLES)
KEY_FILE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nAAAA\n-----END OPENSSH PRIVATE KEY-----"
# Kind, and values of it that stand in the middle of a sentence
VALUES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("e-mail", ("john.doe+x@mail.example.co.uk", "a@b.de", "müller@beispiel.de", "first_last-1@sub-domain.example.museum", "john at example dot com", "jane [at] mail [dot] org")),
    ("phone", ("+49 89 1234567", "+1 (555) 123-4567", "+442079460958", "0049 89 1234567", "(555) 123-4567", "555-123-4567", "1-800-555-1234", "089/1234567", "020 7946 0958", "06 12 34 56 78", "06.12.34.56.78")),
    ("key", (
        "sk-abcdefghijklmnopqrstuvwx", "sk-proj-Ab_9-cdefghijklmnopqrstuvwx", "sk-ant-api03-abcdefghijklmnop", "hf_abcdefghijklmnopqrstuvwx", "ghp_0123456789abcdefghij0123456789abcdef",
        "github_pat_11ABCDEFG0abcdefghijkl", "glpat-abcdefghij0123456789", "xoxb-1234567890-abcdef", "AKIAIOSFODNN7EXAMPLE", "AIzaSyA0123456789abcdefghijklmnopqrstuv",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "d41d8cd98f00b204e9800998ecf8427e", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", KEY_FILE,
    )),
    ("ip", ("192.168.1.17", "8.8.8.8", "2001:db8::8a2e:370:7334", "fe80::1")),
    ("card", ("4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "6011000990139424", "4222222222222")),
    ("iban", ("DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "nl91 abna 0417 1643 00", "FR14 2004 1010 0505 0001 3M02 606")),
    ("street", (
        "221B Baker Street, London NW1 6XE", "350 5th Avenue, New York, NY 10118", "12 N. Long Acre Rd", "742 Evergreen Terrace", "Hauptstraße 12a, 80331 München", "Berliner Straße 7",
        "Stationsplein 9", "12 rue de la Paix", "Calle Mayor 5", "P.O. Box 123",
    )),
)  # fmt: skip
# Text, kind, and what of the text is found
IN_CONTEXT: tuple[tuple[str, Kind, str], ...] = (
    ("https://bob:s3cret@host.example/path", "login", "bob:s3cret"),
    ("postgres://admin:p%40ss@10.0.0.7:5432/db", "login", "admin:p%40ss"),
    ("password: hunter2, please", "key", "hunter2"),
    ("my password is Tr0ub4dor&3.", "key", "Tr0ub4dor&3"),
    ('{"api_key": "abc123def456"}', "key", "abc123def456"),
    ("export DB_PASSWORD=correct-horse-9", "key", "correct-horse-9"),
    ("Authorization: Bearer abcdef0123456789", "key", "abcdef0123456789"),
    ("-----BEGIN PRIVATE KEY-----\nMIIEvQIB", "key", "-----BEGIN PRIVATE KEY-----\nMIIEvQIB"),
    ("Email" + "." * 90 + "foo@bar.com", "e-mail", "foo@bar.com"),
    ("my phone number is 5551234567", "phone", "5551234567"),
    ("Call me: 555 1234", "phone", "555 1234"),
    ("4111 1111 1111 1111 123 12/27", "card", "4111 1111 1111 1111"),
    ("12 4111 1111 1111 1111", "card", "4111 1111 1111 1111"),
    ("i live at 12 main street now", "street", "12 main street"),
    ("My name is Anna", "name", "Anna"),
    ("my name is anna, hello", "name", "anna"),
    ("I am called J. R. R. Tolkien!", "name", "J. R. R. Tolkien"),
    ("Mein Name ist Ludwig van Beethoven und ich komponiere", "name", "Ludwig van Beethoven"),
    ("Ich heiße Jürgen.", "name", "Jürgen"),
    ("Je m'appelle Zoé", "name", "Zoé"),
    ("You can call me Mary-Jane", "name", "Mary-Jane"),
    ("Best regards,\nMary O'Neil\n", "name", "Mary O'Neil"),
)
HARMLESS = (
    "On 2024-01-15 10:30, 01-02-2024 or 1.2.2024 at 12:30:45 we counted 10 20 30 40 50 and 1234567.",
    "Version 1.2.3.4, v10.0.0.1, localhost is 127.0.0.1 or ::1, the mask is 255.255.255.0.",
    "pi is 3.14159265358979, 2**64 is 18446744073709551616, and 1234 5678 1234 5678 is no card.",
    "std::vector, a::b, f1::f2, x = y[1:2:3], git@github.com:a/b, icon@2x.png, react@18.2.0, @decorator",
    "token = tokenizer.encode(text); password is required; the secret is patience; max_tokens: 100",
    "/usr/local/lib/python3/site-packages/transformers/models/bert/modeling_bert_generation_output.py",
    "AutoModelForSequenceClassificationWithManyHeadsAndTails is a long name.",
    "The 10 Best Places in Spring 2024. A 5 minute drive. He was 12 Angry once. String 3, Boring 2.",
    "My name is not important. Call me later, call me at noon. What is my name? This is what I am called.",
    "DE88370400440532013000 is wrong; AB12 is short; phone: none; tel: 12.",
    "Kind regards to all\nof you who came",
    "",
)


def parts(text: str, names: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in find_personal(text, names)]


def test_every_kind_has_a_title_and_a_mark() -> None:
    assert set(FINDERS) | {"name"} == set(KIND_TITLES) == set(MARKS)


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in VALUES for value in values])
@pytest.mark.parametrize("frame", ["Here it is: {}.", "{}", "({})", "one {}, two", "First line\n{}\nlast line"])
def test_values_are_found_whole(kind: Kind, value: str, frame: str) -> None:
    assert parts(frame.format(value)) == [(kind, value)]


@pytest.mark.parametrize(("text", "kind", "value"), IN_CONTEXT)
def test_values_are_found_by_what_stands_around_them(text: str, kind: Kind, value: str) -> None:
    assert (kind, value) in parts(text)
    assert value not in redacted(text, ALL)


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_are_left_alone(text: str) -> None:
    assert parts(text) == []
    assert redacted(text, ALL) == text


def test_a_key_file_ends_where_it_ends() -> None:
    assert redacted(f"before {KEY_FILE} between {KEY_FILE.replace('b3Bl', 'xxxx')} after", ["key"]) == "before [key 1] between [key 2] after"


# ---- marks ---------------------------------------------------------------------------------------------------------


def test_the_same_value_has_the_same_mark() -> None:
    text = "Mail a@b.co or A@B.co, not c@d.co. Ring +49 89 1234567, or +49-89-1234567, or (555) 123-4567."
    assert redacted(text, ["e-mail", "phone"]) == (
        "Mail [e-mail 1] or [e-mail 1], not [e-mail 2]. Ring [phone number 1], or [phone number 1], or [phone number 2]."
    )


def test_only_the_chosen_kinds_are_replaced() -> None:
    text = "My name is Anna, anna@example.org, 192.168.1.17"
    assert redacted(text, ["ip"]) == "My name is Anna, anna@example.org, [IP address 1]"
    assert redacted(text, []) == text
    assert redacted(text, ALL) == "My name is [name 1], [e-mail 1], [IP address 1]"


def test_several_texts_share_their_marks() -> None:
    redactor = Redactor(("e-mail", "name"), names_in("Hello, my name is Anna Schmidt."))
    assert redactor.redacted("Hello, my name is Anna Schmidt.") == "Hello, my name is [name 1]."
    assert redactor.redacted("Hi Anna! Write to a@b.co.") == "Hi [name 1]! Write to [e-mail 1]."
    assert redactor.redacted("a@b.co and c@d.co, Ms. SCHMIDT; Annabel") == "[e-mail 1] and [e-mail 2], Ms. [name 1]; Annabel"
    assert redactor.redacted("My name is Paddock.") == "My name is Paddock.", "names of the texts are those it was given"


def test_names_that_are_given() -> None:
    text = "Bob met Ada Lovelace and bobby. LOVELACE wrote; 我叫小明,小明很好。 C++ is (not) a name."
    assert redacted(text, ["name"], ["bob", "Ada  Lovelace", "小明", "(", "C++", " "]) == (
        "[name 1] met [name 2] and bobby. [name 2] wrote; 我叫[name 3],[name 3]很好。 [name 4] is (not) a name."
    )


def test_a_part_of_a_name_that_is_a_small_word_is_no_name() -> None:
    assert redacted("Vincent van Gogh sat in a van.", ["name"], ["Vincent van Gogh"]) == "[name 1] sat in a van."


# ---- for every text ------------------------------------------------------------------------------------------------

PLANTED = tuple(value for _, values in VALUES for value in values)
PIECES = st.one_of(st.text(max_size=20), st.sampled_from([*PLANTED, *(text for text, _, _ in IN_CONTEXT), " ", "\n", "@", "1", "::", "a@"]))


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=12), st.lists(st.text(max_size=8), max_size=3))
def test_findings_are_in_order_and_nothing_else_changes(pieces: list[str], names: list[str]) -> None:
    text = "".join(pieces)
    found = find_personal(text, names)
    end, rest = 0, []
    for finding in found:
        assert end <= finding.start < finding.end <= len(text)
        rest.append(text[end : finding.start])
        end = finding.end
    rest.append(text[end:])
    marked = redacted(text, ALL, names)
    at = 0
    for place, piece in enumerate(rest):  # what was not found stands there as before, with one mark between
        assert marked.startswith(piece, at)
        at += len(piece)
        if place < len(found):
            mark = f"[{MARKS[found[place].kind]} "
            assert marked.startswith(mark, at)
            at = marked.index("]", at + len(mark)) + 1
    assert at == len(marked)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=60), st.sampled_from(PLANTED), st.text(max_size=60))
def test_a_value_between_any_lines_is_found(before: str, value: str, after: str) -> None:
    assert value not in redacted(f"{before}\n.\n{value}\n.\n{after}", ALL)


# ---- for hostile texts ---------------------------------------------------------------------------------------------

HOSTILE = (
    "a", "1", " ", "a.", "a@", "a@b", "@", ".", "1 ", "1-", "+1", "+1 ", "00", "0 ", "(0", "1.", "1.1.1.", ":", "a:", "abc:", "::1", "A", "A ", "1 A ", "12 Aa ", "a1B2", "aB1/", "eyJ", "eyJaaaaaa.", "sk-", "sk_live_",
    "-----BEGIN PRIVATE KEY-----", "-----END ", "-----", "a://", "a://a:", "https://a:b", "password: ", "password=a1", "DE89 ", "DE8", "Aa ", "Straße ", "Astraße", "Astraße ", "12 rue de la ", "Calle A ", "my name is ",
    "my name is Aa ", "my name is Aa. ", "regards\n", "regards\nAa ", "call me ", "tel ", "live at 1 a ", "live at ", "a at ", "a at b dot ", "Bearer a", "4111 ", "41", "A-", "a'", "É", "漢", "\n",
)  # fmt: skip
LENGTH = 20_000


@pytest.mark.parametrize("endings", ["", "a"])
def test_no_repetition_takes_long(endings: str) -> None:
    """A pattern that tries every way to divide a text would take hours for one of these."""
    slow = []
    for piece in HOSTILE:
        text = piece * (LENGTH // len(piece)) + endings
        begin_s = time.process_time()
        find_personal(text)
        if time.process_time() - begin_s > 1:
            slow.append((piece, time.process_time() - begin_s))
    assert slow == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=5), st.text(max_size=3))
def test_no_mixture_takes_long(pieces: list[str], ending: str) -> None:
    unit = "".join(pieces)
    text = unit * (LENGTH // len(unit)) + ending
    begin_s = time.process_time()
    redacted(text, ALL)
    assert time.process_time() - begin_s < 1
