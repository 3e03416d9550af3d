"""The page's own routes refuse what is not theirs: messages of other conversations, settings of wrong types, addresses that are none."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from tests.paddock_server import PaddockServer

TALK = (("user", "Hello"), ("assistant", "Good day"))
# A verb of a conversation, which message of the other one it names (the question or the reply), and what else is sent
FOREIGN = (
    ("select", 1, {}),
    ("branch", 1, {}),
    ("edit", 0, {"text": "Changed"}),
    ("edit", 0, {"text": "Changed", "resend": True}),
    ("continue", 1, {}),
    ("regenerate", 1, {}),
    ("regenerate", 0, {}),
    ("delete", 1, {}),
    ("rate", 1, {"rating": 1}),
)
WRONG_SETTINGS = (
    ({"preset": 5}, "settings.preset"),
    ({"preset": [1]}, "settings.preset"),
    ({"params": "x"}, "settings.params"),
    ({"params": [1]}, "settings.params"),
    ("x", "settings"),
)
UNKNOWN = (("GET", "v1/nothing"), ("POST", "v1/reranks"), ("GET", "ui/nothing"), ("POST", "ui/conversations/a/b/c"), ("DELETE", "ui/nothing"))
WRONG_METHOD = (("GET", "v1/chat/completions"), ("DELETE", "v1/models"), ("GET", "ui/notebook/generate"), ("PUT", "ui/models"))


class Addresses(HTMLParser):
    """What the attributes of a page name, and its meta tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.named: list[str] = []
        self.meta: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.named += [given[name] for name in ("href", "src", "srcset", "action", "content", "poster", "data") if name in given]
        if tag == "meta":
            self.meta.setdefault(given.get("property") or given.get("name", ""), []).append(given.get("content", ""))


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of an answer in OpenAI's shape; its message is a sentence."""
    assert answer.status_code == status, answer.text[:500]
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"].endswith("."), error["message"]
    return dict(error)


@pytest.mark.parametrize(("verb", "which", "more"), FOREIGN, ids=[f"{verb} {'again' if 'resend' in more else which}" for verb, which, more in FOREIGN])
def test_a_message_of_another_conversation_is_refused_and_left_alone(server: PaddockServer, verb: str, which: int, more: dict[str, Any]) -> None:
    own, other = (server.make_conversation(TALK) for _ in range(2))
    before = [server.conversation(each) for each in (own, other)]
    count = len(server.ask("GET", "ui/conversations")["conversations"])
    message_id = before[1]["messages"][which]["id"]
    answer = server.http.post(f"ui/conversations/{own}/{verb}", json={"message_id": message_id, **more})
    assert "belongs to another conversation" in error_of(answer, 404)["message"]
    assert [server.conversation(each) for each in (own, other)] == before
    assert len(server.ask("GET", "ui/conversations")["conversations"]) == count


@pytest.mark.parametrize("verb", ["generate", "regenerate"])
@pytest.mark.parametrize(("settings", "field"), WRONG_SETTINGS, ids=lambda value: str(value))
def test_notebook_settings_of_a_wrong_type_are_named(server: PaddockServer, verb: str, settings: Any, field: str) -> None:
    error = error_of(server.http.post(f"ui/notebook/{verb}", json={"text": "Once", "settings": settings}), 400)
    assert error["param"] == field
    assert error["message"].startswith(f"{field}: ")


@pytest.mark.parametrize(("method", "path"), UNKNOWN)
def test_an_address_that_is_none_is_not_found(server: PaddockServer, method: str, path: str) -> None:
    error_of(server.http.request(method, path), 404)


@pytest.mark.parametrize(("method", "path"), WRONG_METHOD)
def test_a_wrong_method_is_told_from_an_unknown_address(server: PaddockServer, method: str, path: str) -> None:
    assert method in error_of(server.http.request(method, path), 405)["message"]


def test_scripts_are_kept_by_the_browser_until_they_change(server: PaddockServer) -> None:
    page = server.http.get("").text.replace("\\", "")
    named = set(re.findall(r"ui/assets/([0-9a-f]{12})/", page))
    assert len(named) == 1
    version = named.pop()
    current = server.http.get(f"ui/assets/{version}/page.js")
    assert current.headers["content-type"].startswith("text/javascript")
    assert "immutable" in current.headers["cache-control"]
    renewed = server.http.get("ui/assets/0123456789ab/page.js")  # a page of the version before, still open
    assert renewed.text == current.text
    assert renewed.headers["cache-control"] == "no-cache"
    for wrong in ("nothing.js", "..%2fapp.py", "%2e%2e"):
        assert server.http.get(f"ui/assets/{version}/{wrong}").status_code in (400, 404)


@pytest.mark.parametrize("path", ["", "?c=nothing"])
def test_the_page_names_itself_and_no_other_host(server: PaddockServer, path: str) -> None:
    page = server.http.get(path).text
    found = Addresses(page)
    assert len(found.named) > 5 and [name for name in found.named if re.search(r"(^|[\s,])(https?:)?//", name)] == []
    assert not re.findall(r"""(?:href|src|content)=\\?["'](?:https?:)?//""", page)  # nor in what its scripts put into it
    assert found.meta["og:title"] == ["Paddock"] and len(found.meta["og:description"]) == len(found.meta["description"]) == 1
    assert not [name for name in found.meta if name.startswith("twitter:") or name in ("og:image", "og:url")]
    assert not [value for values in found.meta.values() for value in values if "radio" in value]


def test_event_streams_are_not_compressed(server: PaddockServer) -> None:
    with server.http.stream("GET", "ui/notebook/events?id=") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in stream.headers
        assert next(stream.iter_lines()), "it comes at once"
