"""Markdown of a reply to safe HTML, block by block, and the streaming renderer that keeps finished blocks.

Knows markdown-it, Pygments and the allow-list of nh3. Knows no conversation, no route and no Gradio. Raw HTML in a message is text;
an image is shown as a link to it, so that a reply cannot make the browser fetch anything.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from hashlib import blake2b
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.tasklists import tasklists_plugin

from modules.ui.formulas import MATH_TAGS, REACHED, math_plugin
from modules.ui.references import Definitions, Label, defined, references_plugin, used_labels

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence
    from typing import Any

    from markdown_it.renderer import RendererProtocol
    from markdown_it.rules_core import StateCore
    from markdown_it.utils import OptionsDict

TEXT_LIMIT = 400_000  # characters of one message that are read as markdown; longer ones are shown as plain text
INLINE_LIMIT = 20_000  # characters of one paragraph; emphasis and links in longer ones stay as typed
HIGHLIGHT_LIMIT = 20_000  # characters of one code block that get colours
CACHE_SIZE = 24_000_000  # characters of HTML that are kept: some thousand messages
ENTRY_SIZE = 200  # what an entry takes besides, in characters
LANGUAGE = re.compile(r"[\w+#.\-]{1,30}")
LINK_SCHEMES = re.compile(r"(https?|mailto):", re.IGNORECASE)

HTML_TAGS = frozenset({
    "a", "blockquote", "br", "button", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "input", "li", "ol", "p",
    "pre", "s", "span", "strong", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
})  # fmt: skip
CELL = frozenset({"style"})
ATTRIBUTES = MappingProxyType({
    "a": {"href", "title", "target", "class"}, "button": {"type", "class", "title"}, "code": {"class"}, "div": {"class", "tabindex"},
    "input": {"type", "checked", "disabled", "class"}, "li": {"class"}, "ol": {"start"}, "p": {"class"}, "pre": {"class", "tabindex"},
    "span": {"class"}, "td": CELL, "th": CELL, "ul": {"class"},
    "math": {"alttext", "display", "xmlns"}, "mfrac": {"linethickness"}, "mi": {"mathvariant"}, "menclose": {"notation"},
    "mo": {"stretchy", "fence", "form", "separator", "lspace", "rspace", "accent", "minsize", "maxsize", "movablelimits"},
    "mover": {"accent"}, "munder": {"accentunder"}, "mspace": {"width", "linebreak"}, "mstyle": {"displaystyle", "scriptlevel", "mathcolor"},
    "mpadded": {"width", "lspace"}, "mtd": {"columnalign"},
    "mtable": {"columnalign", "columnspacing", "rowspacing", "columnlines", "rowlines", "displaystyle"},
})  # fmt: skip


class Update(NamedTuple):
    """All blocks now, and the index of the first that differs from the last feed."""

    first: int
    blocks: tuple[str, ...]


class Renderer:
    """Markdown to safe HTML blocks. Stateless between calls; one instance serves all messages."""

    def __init__(self) -> None:
        self._markdown = _markdown()
        self._cleaner = nh3.Cleaner(
            tags=HTML_TAGS | MATH_TAGS,
            attributes={tag: set(names) for tag, names in ATTRIBUTES.items()},
            url_schemes={"http", "https", "mailto"},
            link_rel="noopener noreferrer nofollow",
            filter_style_properties={"text-align"},
        )

    def blocks(self, text: str) -> tuple[str, ...]:
        """One safe HTML string for each top-level block of `text`. Never raises."""
        text = plain_newlines(text)
        if len(text) > TEXT_LIMIT:
            return (f'<pre class="plain">{escape(text)}</pre>',)
        return tuple(self.group_html(group) for group in groups(self.parse(text, {})))

    def parse(self, text: str, env: MutableMapping[str, Any]) -> list[Token]:
        """Tokens of a text whose newlines are plain; what it defines comes into `env`, beside what is there."""
        return self._markdown.parse(text, env)

    def group_html(self, tokens: list[Token]) -> str:
        """Safe HTML of one top-level block."""
        return str(self._cleaner.clean(self._markdown.renderer.render(tokens, self._markdown.options, {})))


class _Finished(NamedTuple):
    """A block that no later line can change, but for what its labels stand for."""

    html: str
    source: str
    labels: tuple[Label, ...]
    meaning: tuple[object, ...]  # of the labels, as it was rendered


class StreamingRenderer:
    """Renders a growing text: finished blocks are rendered once, and again only where something they refer to is defined; the open one each time.

    A block is finished when a *complete* line has begun another one after it; block rules are such that no later line can change it.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._text = ""
        self._finished: list[_Finished] = []
        self._defined = Definitions()  # before the offset
        self._referred = Definitions()  # in the whole text, by which the first blocks were rendered, as many as were checked
        self._checked = 0
        self._offset = 0  # where the first unfinished block begins in the text
        self._scanned = 0  # up to where complete lines were looked at
        self._shown: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[str, ...]:
        """All blocks as last fed."""
        return self._shown

    def feed(self, text: str) -> Update:
        """Take the whole text so far; a text that does not begin with the last one starts over."""
        text = plain_newlines(text)
        if not text.startswith(self._text):
            self._finished, self._defined, self._offset, self._scanned, self._checked = [], Definitions(), 0, 0, 0
        self._text = text
        if len(text) > TEXT_LIMIT:
            return self._show(self._renderer.blocks(text))
        self._finish_blocks()
        env = self._defined.environment()
        tail = groups(self._renderer.parse(text[self._offset:], env))
        self._refer(defined(env))
        return self._show((*(block.html for block in self._finished), *(self._renderer.group_html(group) for group in tail)))

    def _finish_blocks(self) -> None:
        complete = self._text.rfind("\n") + 1
        if complete <= self._scanned:
            return
        self._scanned = complete
        part = self._text[self._offset:complete]
        env = self._defined.environment()
        found = groups(self._renderer.parse(part, env))
        if len(found) < 2:
            return
        lines, begins, known = part.split("\n"), [_first_line(group) for group in found], defined(env)
        for group, begin, end in zip(found[:-1], begins, begins[1:], strict=False):
            source = "\n".join(lines[begin:end])
            labels = used_labels(source)
            self._finished.append(_Finished(self._renderer.group_html(group), source, labels, known.meaning(labels)))
        self._defined = defined(env, before=begins[-1])
        self._offset += sum(len(text) + 1 for text in lines[: begins[-1]])

    def _refer(self, known: Definitions) -> None:
        """Render those finished blocks again in which a label stands for something else now."""
        begin, self._referred, self._checked = 0 if known != self._referred else self._checked, known, len(self._finished)
        for place, block in enumerate(self._finished[begin:], begin):
            if block.labels and (meaning := known.meaning(block.labels)) != block.meaning:
                tokens = self._renderer.parse(block.source, known.environment())
                self._finished[place] = block._replace(html=self._renderer.group_html(tokens), meaning=meaning)

    def _show(self, blocks: tuple[str, ...]) -> Update:
        common = 0
        for old, new in zip(self._shown, blocks, strict=False):
            if old != new:
                break
            common += 1
        self._shown = blocks
        return Update(common, blocks)


class BlockCache:
    """Rendered blocks of finished texts by the hash of the text, whoever asks for them; the least recently used are forgotten first."""

    def __init__(self, renderer: Renderer, size: int = CACHE_SIZE) -> None:
        self._renderer = renderer
        self._size = size  # characters of all blocks together
        self._held = 0
        self._kept: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()

    def blocks(self, text: str) -> tuple[str, ...]:
        """Blocks of `text`, rendered at most once while remembered."""
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        found = self._kept.pop(key, None)
        if found is None:
            found = self._renderer.blocks(text)
            self._held += _length(found)
        self._kept[key] = found
        while self._held > self._size:
            _, forgotten = self._kept.popitem(last=False)
            self._held -= _length(forgotten)
        return found


def _length(blocks: tuple[str, ...]) -> int:
    return ENTRY_SIZE + sum(map(len, blocks))


def render_blocks(text: str) -> tuple[str, ...]:
    """Blocks of one text with a renderer of its own; who renders often keeps a `Renderer`."""
    return Renderer().blocks(text)


def plain_newlines(text: str) -> str:
    """One kind of newline, no lone surrogates: what the parser and UTF-8 can take."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    return text


def _first_line(group: list[Token]) -> int:
    line = group[0].map
    assert line is not None, "block tokens carry their lines"
    return line[0]


def groups(tokens: list[Token]) -> list[list[Token]]:
    """Split a token stream at the top-level blocks."""
    found: list[list[Token]] = []
    depth = 0
    for token in tokens:
        if depth == 0:
            found.append([])
        found[-1].append(token)
        depth += token.nesting
    return found


def _markdown() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False, "linkify": True, "breaks": True}).enable(["table", "strikethrough", "linkify"])
    if md.linkify is not None:
        md.linkify.set({"fuzzy_link": False, "fuzzy_email": False})  # `server.py` is no web address
    md.validateLink = lambda url: bool(LINK_SCHEMES.match(url))  # type: ignore[method-assign]
    md.use(tasklists_plugin).use(math_plugin).use(references_plugin)
    md.core.ruler.at("inline", _inline_within_limit)
    md.add_render_rule("fence", _fence)
    md.add_render_rule("code_block", _fence)
    md.add_render_rule("image", _image_as_link)
    md.add_render_rule("link_open", _link_open)
    md.add_render_rule("table_open", lambda *_: f'<div class="table" {REACHED}><table>')
    md.add_render_rule("table_close", lambda *_: "</table></div>")
    return md


def _inline_within_limit(state: StateCore) -> None:
    """The parser's own step, except that a huge paragraph stays as typed: some of its rules are quadratic."""
    for token in state.tokens:
        if token.type != "inline":
            continue
        if len(token.content) <= INLINE_LIMIT:
            state.md.inline.parse(token.content, state.md, state.env, token.children if token.children is not None else [])
        else:
            token.children = [Token("text", "", 0, content=token.content)]


def _fence(renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
    token = tokens[index]
    words = token.info.split(maxsplit=1)
    found = LANGUAGE.match(words[0]) if words else None
    language = found.group(0) if found else ""
    return (
        f'<div class="code"><div class="code-head"><span class="code-lang">{escape(language or "text")}</span>'
        '<button type="button" class="code-copy">Copy</button></div>'
        f"<pre {REACHED}><code>{highlighted(token.content, language)}</code></pre></div>\n"
    )


def highlighted(code: str, language: str) -> str:
    """Escaped code with Pygments classes where the language is known."""
    if not language or len(code) > HIGHLIGHT_LIMIT:
        return escape(code)
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language.lower(), stripnl=False, ensurenl=False)
    except ClassNotFound:
        return escape(code)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def _image_as_link(
    renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    token = tokens[index]
    label = escape(token.content or "image")
    inside_link = sum((other.type == "link_open") - (other.type == "link_close") for other in tokens[:index]) > 0
    if inside_link:
        return f'<span class="image-link">{label}</span>'
    return f'<a class="image-link" target="_blank" href="{escape(str(token.attrs.get("src", "")))}">{label}</a>'


def _link_open(renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
    tokens[index].attrSet("target", "_blank")
    return f"<a{renderer.renderAttrs(tokens[index])}>"  # type: ignore[attr-defined]
