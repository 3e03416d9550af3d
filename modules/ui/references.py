"""Reference links and footnotes of Markdown: `[text][a]` with a line `[a]: address`, and `[^1]` with a note `[^1]: text`.

A definition takes one line and never depends on what comes after it, so that a streaming renderer can keep finished blocks; what a
definition further down changes in them is known by their labels. A note stays where it is written. Knows no renderer of a message.
"""

from __future__ import annotations

import re
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from markdown_it.common.utils import normalizeReference, unescapeAll
from mdit_py_plugins.footnote.index import footnote_def

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererProtocol
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token
    from markdown_it.utils import OptionsDict

LINKS, NOTES = "references", "notes"  # where the parser's environment has them; the first is the parser's own name
LABEL = r"\[((?:[^\[\]\\\n]|\\.){1,200})\]"
DEFINITION = re.compile(LABEL + r":[ \t]*(<[^<>\n]{0,2000}>|[^\s<]\S{0,2000})(?:[ \t]+(\"[^\"]*\"|'[^']*'|\([^()]*\)))?[ \t]*")
USED = re.compile(r"\[((?:[^\[\]\\]|\\.){1,200})\]", re.DOTALL)
NOTE = re.compile(r"\[\^([^\s\[\]]{1,60})\]")


class Label(NamedTuple):
    """What stands in brackets: how it is looked up as a link, and as a note."""

    link: str
    note: str


class Definitions(NamedTuple):
    """What labels stand for: addresses and titles of links by their normalised label, and the labels of notes."""

    links: Mapping[str, tuple[str, str]] = MappingProxyType({})
    notes: frozenset[str] = frozenset()

    def environment(self) -> dict[str, Any]:
        """For the parser: what is defined before a text begins."""
        links = {label: {"href": href, "title": title, "map": [-1, -1]} for label, (href, title) in self.links.items()}
        return {LINKS: links, NOTES: dict.fromkeys(self.notes, -1)}

    def meaning(self, labels: Sequence[Label]) -> tuple[object, ...]:
        """What these labels stand for, to compare."""
        return tuple((self.links.get(label.link), label.note in self.notes) for label in labels)


def defined(env: Mapping[str, Any], before: int | None = None) -> Definitions:
    """What a parsed text defines, or its lines before one."""
    links = {label: (row["href"], row["title"]) for label, row in env.get(LINKS, {}).items() if before is None or row["map"][0] < before}
    return Definitions(links, frozenset(label for label, line in env.get(NOTES, {}).items() if before is None or line < before))


def used_labels(source: str) -> tuple[Label, ...]:
    """What may be a use of a definition in a text."""
    return tuple(Label(normalizeReference(text), text[1:] if text.startswith("^") else "") for text in dict.fromkeys(USED.findall(source)))


def references_plugin(md: MarkdownIt) -> None:
    """Add the rules and their renderers."""
    md.block.ruler.at("reference", _definition)
    md.block.ruler.before("reference", "note", _note, {"alt": ["paragraph", "reference"]})
    md.inline.ruler.after("image", "note_mark", _note_mark)
    md.add_render_rule("note_mark", _render_mark)
    md.add_render_rule("footnote_reference_open", _render_note)
    md.add_render_rule("footnote_reference_close", lambda *_: "</div>\n")


def _definition(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    if state.is_code_block(start_line):
        return False
    found = DEFINITION.fullmatch(state.src[state.bMarks[start_line] + state.tShift[start_line] : state.eMarks[start_line]])
    if found is None or found[1].startswith("^"):
        return False
    label, address = normalizeReference(found[1]), found[2]
    href = state.md.normalizeLink(unescapeAll(address[1:-1] if address.startswith("<") else address))
    if not label.strip() or not state.md.validateLink(href):
        return False
    if not silent:
        title = unescapeAll(found[3][1:-1]) if found[3] else ""
        state.env.setdefault(LINKS, {}).setdefault(label, {"href": href, "title": title, "map": [start_line, start_line + 1]})
        state.line = start_line + 1
    return True


def _note(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    found = NOTE.match(state.src, state.bMarks[start_line] + state.tShift[start_line], state.eMarks[start_line])
    if found is None or not footnote_def(state, start_line, end_line, silent):
        return False
    if not silent:
        state.env.setdefault(NOTES, {}).setdefault(found[1], start_line)
    return True


def _note_mark(state: StateInline, silent: bool) -> bool:
    """`[^1]`, where there is a note of that label."""
    found = NOTE.match(state.src, state.pos, state.posMax)
    if found is None or found[1] not in state.env.get(NOTES, {}):
        return False
    if not silent:
        state.push("note_mark", "", 0).meta = {"label": found[1]}
    state.pos = found.end()
    return True


def _render_mark(renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
    label = escape(tokens[index].meta["label"])
    return f'<sup><button type="button" class="footnote-mark" title="Footnote {label}">{label}</button></sup>'


def _render_note(renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
    return f'<div class="footnote" tabindex="-1"><span class="footnote-label">{escape(tokens[index].meta["label"])}</span>'
