"""The routes that make data sets of conversations: what they answer and refuse, and the file they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.paddock_server import PaddockServer

ROUTE = "ui/datasets/conversations"
TALK = (("user", "My name is Anna, write to anna@example.org"), ("assistant", "Good day, Anna!"))
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"choose": []}, "choose"),
    ({"choose": ["everything"]}, "choose"),
    ({"choose": ["chosen", "pairs"]}, "choose"),
    ({"choose": ["chosen"], "redact": ["shoe size"]}, "redact"),
    ({"choose": "chosen"}, "choose"),
    ({}, "choose"),
    ({"choose": ["chosen"] * 21}, "choose"),
    ({"choose": ["chosen"], "names": ["x" * 101]}, "names.0"),
)


@pytest.fixture
def talk(server: PaddockServer) -> Iterator[str]:
    """A conversation; no other has ratings."""
    made = server.make_conversation(TALK, title="Introduction")
    yield made
    server.ask("DELETE", f"ui/conversations/{made}")


def test_from_a_thumb_to_a_file(server: PaddockServer, talk: str) -> None:
    reply = server.conversation(talk)["messages"][1]
    assert reply["rating"] == 0
    assert server.ask("POST", f"ui/conversations/{talk}/rate", {"message_id": reply["id"], "rating": 1}) == {"ok": True}
    assert server.conversation(talk)["messages"][1]["rating"] == 1
    choices = server.ask("GET", ROUTE)["choices"]
    assert [choice["value"] for choice in choices] == ["chosen", "liked", "edited", "pairs", "rated"]
    assert (choices[1]["title"], choices[1]["count"]) == ("Replies with a thumb up", 1)
    asked = {"choose": ["liked"], "redact": ["e-mail"], "names": ["Good"]}
    found = server.ask("POST", f"{ROUTE}/preview", asked)
    assert (found["count"], found["exact"], found["near"], found["pairs"], found["with_images"]) == (1, 0, 0, 0, 0)
    assert [(row["kind"], row["title"], row["count"], row["examples"]) for row in found["findings"]] == [
        ("e-mail", "E-mail addresses", 1, ["anna@example.org"]), ("name", "Names", 3, ["Anna", "Good"]),
    ]  # fmt: skip
    texts = ["My name is Anna, write to [e-mail 1]", "Good day, Anna!"]
    assert [message["text"] for message in found["samples"][0]["messages"]] == texts
    name = server.ask("POST", ROUTE, {"name": "own talk", **asked})["name"]
    try:
        lines = (server.datasets_dir / name).read_text(encoding="utf-8").splitlines()
        assert [[message["content"] for message in json.loads(line)["messages"]] for line in lines] == [texts]
        assert (name, "messages") in [(row["name"], row["format"]) for row in server.ask("GET", "ui/datasets")["datasets"]]
        again = server.http.post(ROUTE, json={"name": "own talk", **asked})
        assert again.status_code == 409
        assert "already" in again.json()["error"]["message"]
    finally:
        server.ask("POST", "ui/datasets/delete", {"name": name})


@pytest.mark.parametrize(("body", "field"), REFUSED)
@pytest.mark.parametrize("path", ["/preview", ""])
def test_what_is_wrong_is_named(server: PaddockServer, talk: str, path: str, body: dict[str, Any], field: str) -> None:
    answer = server.http.post(ROUTE + path, json={"name": "refused", **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert not list(server.datasets_dir.glob("refused*"))


@pytest.mark.parametrize("rating", [2, "good", None, 0.5])
def test_a_rating_is_one_of_three(server: PaddockServer, talk: str, rating: Any) -> None:
    reply = server.conversation(talk)["messages"][1]
    answer = server.http.post(f"ui/conversations/{talk}/rate", json={"message_id": reply["id"], "rating": rating})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "rating")
    assert server.conversation(talk)["messages"][1]["rating"] == 0


def test_a_question_is_not_rated(server: PaddockServer, talk: str) -> None:
    question = server.conversation(talk)["messages"][0]
    answer = server.http.post(f"ui/conversations/{talk}/rate", json={"message_id": question["id"], "rating": 1})
    assert answer.status_code == 400
    assert "Only a reply" in answer.json()["error"]["message"]
