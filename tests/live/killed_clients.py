"""Clients of a server that is about to be killed: they talk, edit, delete and bring in conversations, and write down what they were told.

Something counts as kept from the moment its answer has come; what is being moved to the bin or back just then counts as open. Knows the page's
routes and its stream; kills nothing.
"""

from __future__ import annotations

import html
import json
import random
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

TAG = re.compile(r"<[^>]*>")
NEWEST = 6  # conversations that are still changed: the others stay as they are to the end
BROUGHT = 12  # messages of a conversation that is brought in
REPLY = {"params": {"ban_eos": True, "temperature": 0.7, "max_tokens": 400}}
ANSWER_LIMIT_S = 60


def letters(text: str) -> str:
    """What of a text is the same in Markdown and on the screen."""
    return "".join(letter for letter in text if letter.isalnum())


@dataclass
class Told:
    """A message that was acknowledged with this text. `there`: shown, in the bin (False), or just being moved (None)."""

    text: str
    there: bool | None = True


@dataclass
class Growth:
    """A reply as it came to a follower."""

    conversation_id: str
    before: tuple[str, str] = ("", "")  # status and error of a reply that was continued: they stay until more of it is stored
    blocks: list[str] = field(default_factory=list)
    shown: str = ""
    lengths: list[tuple[float, int]] = field(default_factory=list)  # when there was so much of it
    ended: str = ""  # its status, once the follower was told
    error: str = ""

    def take(self, start: int, blocks: list[str]) -> None:
        self.blocks[start:] = blocks
        self.shown = letters(html.unescape(TAG.sub("", " ".join(self.blocks))))
        self.lengths.append((time.monotonic(), len(self.shown)))

    def lost_s(self, stored: str, killed_s: float) -> float:
        """How long before the kill the first of it was shown that is not stored; 0 where all of it is."""
        kept = letters(stored)
        same = next((place for place, (one, other) in enumerate(zip(self.shown, kept, strict=False)) if one != other), min(len(self.shown), len(kept)))
        return max((killed_s - when_s for when_s, length in self.lengths if length > same), default=0.0)


@dataclass
class Talk:
    """A conversation that was acknowledged, with the texts it was brought in with."""

    brought: tuple[str, ...] = ()
    messages: dict[str, Told] = field(default_factory=dict)
    there: bool | None = True


class Client:
    """One that works on conversations of its own until it is told to stop, or its server is gone."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.talks: dict[str, Talk] = {}
        self.touched: set[str] = set()  # conversations, since the last check
        self.done = 0  # requests that were answered
        self._http = httpx.Client()

    def work(self, url: str, stop: threading.Event) -> None:
        """Do one thing after the other.

        Raises:
            httpx.TransportError: the server is gone.
        """
        with httpx.Client(base_url=url, timeout=ANSWER_LIMIT_S) as self._http:
            self.begin()
            while not stop.is_set():
                self.step()

    def begin(self) -> None:
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        self.done += 1
        return answer.json()

    def some_text(self) -> str:
        return f"What of number {self.chance.randrange(10**9)}? " + "Some more words. " * self.chance.randrange(20)


class Editor(Client):
    """One that changes conversations as a person would, only faster."""

    def begin(self) -> None:
        self.bring_in()

    def step(self) -> None:
        self.chance.choice((self.edit, self.edit, self.delete, self.throw_away, self.bring_in))()

    def some(self) -> tuple[str, Talk]:
        known = [(name, talk) for name, talk in list(self.talks.items())[-NEWEST:] if talk.there and talk.messages]
        name, talk = self.chance.choice(known)
        self.touched.add(name)
        return name, talk

    def bring_in(self) -> None:
        texts = tuple(self.some_text() for _ in range(BROUGHT))
        rows = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
        name = self.ask("POST", "ui/conversations/import", {"title": "Brought in", "messages": rows})["id"]
        self.talks[name] = talk = Talk(texts)
        self.touched.add(name)
        shown = self.ask("GET", f"ui/conversations/{name}")["messages"]
        talk.messages |= {message["id"]: Told(text) for message, text in zip(shown, texts, strict=True)}

    def edit(self) -> None:
        name, talk = self.some()
        self.add_version(name, talk)

    def add_version(self, name: str, talk: Talk) -> str:
        """A message beside one that was brought in: nothing follows it."""
        place = self.chance.choice(list(talk.messages)[:BROUGHT])
        text = self.some_text()
        added = str(self.ask("POST", f"ui/conversations/{name}/edit", {"message_id": place, "text": text})["message_id"])
        talk.messages[added] = Told(text)
        return added

    def delete(self) -> None:
        name, talk = self.some()
        told = talk.messages[added := self.add_version(name, talk)]
        told.there = None
        bin_id = self.ask("POST", f"ui/conversations/{name}/delete", {"message_id": added})["bin_id"]
        told.there = False
        if self.chance.random() < 0.6:
            told.there = None
            self.ask("POST", f"ui/bin/{bin_id}/restore")
            told.there = True

    def throw_away(self) -> None:
        name, talk = self.some()
        talk.there = None
        bin_id = self.ask("DELETE", f"ui/conversations/{name}")["bin_id"]
        talk.there = False
        if self.chance.random() < 0.6:
            talk.there = None
            self.ask("POST", f"ui/bin/{bin_id}/restore")
            talk.there = True
        else:
            self.bring_in()


class Talker(Client):
    """One that has replies written and reads along."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.growths: dict[str, Growth] = {}  # since the last check; the last one may be under way

    def begin(self) -> None:
        if not self.talks or self.chance.random() < 0.3:
            self.talks[self.ask("POST", "ui/conversations/import", {"title": "Talk", "settings": REPLY, "messages": []})["id"]] = Talk()

    def step(self) -> None:
        name, talk = next(reversed(self.talks.items()))
        self.touched.add(name)
        shown = self.ask("GET", f"ui/conversations/{name}")["messages"]
        replies = [message["id"] for message in shown if message["role"] == "assistant"]
        asks = (self.send, self.regenerate, self.resend, self.extend) if replies else (self.send,)
        before = {message["id"]: (message["status"], message["error"]) for message in shown}
        reply_id = self.chance.choice(asks)(f"ui/conversations/{name}", talk, shown)
        self.growths[reply_id] = growth = Growth(name, before.get(reply_id, ("", "")))
        self.follow(reply_id, growth)

    def send(self, path: str, talk: Talk, _: list[dict[str, Any]]) -> str:
        text = self.some_text()
        answer = self.ask("POST", f"{path}/send", {"text": text})
        talk.messages[answer["user_id"]] = Told(text)
        return str(answer["reply_id"])

    def regenerate(self, path: str, _: Talk, shown: list[dict[str, Any]]) -> str:
        return str(self.ask("POST", f"{path}/regenerate", {"message_id": shown[-1]["id"]})["reply_id"])

    def resend(self, path: str, talk: Talk, shown: list[dict[str, Any]]) -> str:
        text = self.some_text()
        asked = next(message["id"] for message in reversed(shown) if message["role"] == "user")
        answer = self.ask("POST", f"{path}/edit", {"message_id": asked, "text": text, "resend": True})
        talk.messages[answer["message_id"]] = Told(text)
        return str(answer["reply_id"])

    def extend(self, path: str, _: Talk, shown: list[dict[str, Any]]) -> str:
        last = next(message["id"] for message in reversed(shown) if message["role"] == "assistant")
        return str(self.ask("POST", f"{path}/continue", {"message_id": last})["reply_id"])

    def follow(self, reply_id: str, growth: Growth) -> None:
        """Read along until the reply has ended."""
        event = ""
        with self._http.stream("GET", f"ui/conversations/{growth.conversation_id}/events") as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and self.hear(event, json.loads(line.removeprefix("data: ")), reply_id, growth):
                    return
        raise httpx.RemoteProtocolError("the stream ended before the reply")

    def hear(self, event: str, told: dict[str, Any], reply_id: str, growth: Growth) -> bool:
        """Take in what concerns the reply; whether it has ended."""
        if event == "patch" and told["id"] == reply_id:
            growth.take(told["from"], told["blocks"])
            return False
        whole = {"snapshot": told.get("messages", ()), "change": (*told.get("added", ()), *told.get("changed", ())), "finished": (told,)}.get(event, ())
        for message in whole:
            if message["id"] == reply_id:
                growth.take(0, message["blocks"])
                if message["status"] != "streaming":
                    growth.ended, growth.error = message["status"], message["error"]
                    return True
        return False
