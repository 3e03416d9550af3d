"""Conversations as ChatGPT exports them: `mapping`, a tree of nodes like our own, told in our own form.

Kept is what a person reads: questions, replies with their versions, the thoughts that are in the file. Calls of tools and what these answered are
left out, and so are hidden messages; a picture leaves a mark in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from modules.core.errors import InvalidRequest
from modules.services.foreign_parts import in_order, objects, record, seconds_of, with_thinking, words

ROLES = ("system", "user", "assistant")
NODES_LIMIT = 100_000
CITATION = re.compile("\ue200[^\ue201]*\ue201|[\ue200-\ue206]")  # marks of sources, which only that site can resolve
PICTURE = "[image]"


class _Place(NamedTuple):
    """Where a node hangs among what is kept: below which message, and what was thought since."""

    node_id: str
    parent_id: str | None
    thinking: str


def is_chatgpt(values: Mapping[str, Any]) -> bool:
    """Whether an object is a conversation of this kind."""
    return isinstance(values.get("mapping"), dict)


def from_chatgpt(values: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation in our own form.

    Raises:
        InvalidRequest: it has no root, or too many nodes.
    """
    nodes: dict[str, Any] = {key: record(node) for key, node in values["mapping"].items()}
    if len(nodes) > NODES_LIMIT:
        raise InvalidRequest(f"This conversation has {len(nodes):,} nodes; at most {NODES_LIMIT:,} are read.", field="file")
    rows, kept_as = _kept(nodes)
    head_id = kept_as.get(words(values.get("current_node")))
    merged, heads = _joined(in_order(rows))
    return {
        "title": words(values.get("title"))[:2000],
        "created_s": seconds_of(values.get("create_time")),
        "updated_s": seconds_of(values.get("update_time")),
        "pinned": values.get("is_starred") is True,
        "head_id": heads.get(head_id or "", head_id),
        "messages": merged,
    }


def _kept(nodes: Mapping[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str | None]]:
    """The messages that are kept, and for every node the kept message that stands for it: itself, or the last one above it."""
    below: dict[str | None, list[str]] = {}
    for node_id, node in nodes.items():
        parent = node.get("parent")
        below.setdefault(parent if isinstance(parent, str) and parent in nodes else None, []).append(node_id)
    for parent_id, children in below.items():
        order = nodes[parent_id].get("children") if parent_id is not None else None
        ranks = {child: rank for rank, child in enumerate(order)} if isinstance(order, list) and all(isinstance(child, str) for child in order) else {}
        children.sort(key=lambda child, ranks=ranks: ranks.get(child, len(ranks)))  # type: ignore[misc]
    rows: list[dict[str, Any]] = []
    kept_as: dict[str, str | None] = {}
    waiting = [_Place(node_id, None, "") for node_id in reversed(below.get(None, []))]
    while waiting:
        node_id, parent_id, thinking = waiting.pop()
        message = record(nodes[node_id].get("message"))
        row = _row(message, thinking)
        if row is not None:
            rows.append({"id": node_id, "parent_id": parent_id, **row})
            parent_id, thinking = node_id, ""
        else:
            thinking = "\n\n".join(part for part in (thinking, _thoughts(message)) if part)
        kept_as[node_id] = parent_id
        waiting.extend(_Place(child, parent_id, thinking) for child in reversed(below.get(node_id, [])))
    return rows, kept_as


def _row(message: Mapping[str, Any], thinking: str) -> dict[str, Any] | None:
    """A message as ours; None for one that nobody reads."""
    role = record(message.get("author")).get("role")
    facts = record(message.get("metadata"))
    hidden = message.get("weight") == 0 or facts.get("is_visually_hidden_from_conversation") is True
    if role not in ROLES or hidden or message.get("recipient", "all") != "all":
        return None
    text = _text(record(message.get("content")))
    if not text.strip():
        return None
    content = with_thinking(thinking, text) if role == "assistant" else text
    return {"role": role, "content": content, "created_s": seconds_of(message.get("create_time")), "model": words(facts.get("model_slug"))[:500]}


def _text(content: Mapping[str, Any]) -> str:
    kind = content.get("content_type")
    if kind == "code":
        return f"```\n{words(content.get('text'))}\n```" if words(content.get("text")).strip() else ""
    if kind not in ("text", "multimodal_text"):
        return ""
    parts = content.get("parts")
    texts = [_part(part) for part in parts] if isinstance(parts, list) else [words(content.get("text"))]
    return CITATION.sub("", "\n\n".join(text for text in texts if text.strip()))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = words(record(part).get("content_type"))
    return PICTURE if "image" in kind else words(record(part).get("text"))


def _thoughts(message: Mapping[str, Any]) -> str:
    content = record(message.get("content"))
    if content.get("content_type") != "thoughts":
        return ""
    return "\n\n".join(words(thought.get("content")) or words(thought.get("summary")) for thought in objects(content.get("thoughts")))


def _joined(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Replies that follow each other, as around the call of a tool, become one; for each that went, the one that it went into."""
    followers: dict[str | None, int] = {}
    for row in rows:
        followers[row["parent_id"]] = followers.get(row["parent_id"], 0) + 1
    by_id: dict[str, dict[str, Any]] = {}
    gone: dict[str, str] = {}
    for row in rows:
        parent_id = gone.get(row["parent_id"] or "", row["parent_id"])
        above = by_id.get(parent_id or "")
        if above is not None and above["role"] == row["role"] == "assistant" and followers[row["parent_id"]] == 1:
            above["content"] += "\n\n" + row["content"]
            gone[row["id"]] = above["id"]
        else:
            by_id[row["id"]] = {**row, "parent_id": parent_id}
    return list(by_id.values()), gone
