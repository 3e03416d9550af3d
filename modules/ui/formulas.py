"""LaTeX in replies: where it begins and ends in markdown, and MathML that is well formed.

Knows markdown-it rules for dollar signs and for TeX's bracket marks, and the converter's weak spots. Does not sanitize: `render.py` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence
    from typing import Any

    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererProtocol
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token
    from markdown_it.utils import OptionsDict

MATH_TAGS = frozenset({
    "math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom", "mprescripts", "mroot", "mrow",
    "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover", "semantics",
})  # fmt: skip
MATHML = "http://www.w3.org/1998/Math/MathML"
REACHED = 'tabindex="0"'  # what can be wider than the page is scrolled with the keyboard too
LENGTH_LIMIT = 4000  # characters of one formula; longer ones stay source text
DEPTH_LIMIT = 60  # nested braces the converter is trusted with
BLOCK_ENDS = (("$$", "$$"), ("\\[", "\\]"))
# Environments that are formulas without any mark around them
BLOCK_ENVIRONMENT = re.compile(r"\\begin\{((?:align|alignat|flalign|gather|multline|equation|eqnarray|displaymath)\*?)\}")
INLINE_ENDS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
# "$5 and then US$": a sum of money, not a formula
MONEY = re.compile(r"\d[\d.,]*(\s+[^\\^_=+<>*/{}]*)?")
TEXT_ARGUMENT = re.compile(r"\\(?:text|mbox|textrm|textbf|textit|textsf|texttt)\s*\{([^{}]*)\}")
# Environments that the converter lacks, by what it has of the same look; none: they only say where a formula is
ENVIRONMENTS: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(("aligned", "alignedat", "alignat", "alignat*", "flalign", "flalign*", "eqnarray*"), "align*"), "eqnarray": "align",
    **dict.fromkeys(("gather", "gather*", "gathered", "multline", "multline*", "multlined"), "matrix"), "dcases": "cases",
    **dict.fromkeys(("equation", "equation*", "displaymath", "math"), ""),
})  # fmt: skip
ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([A-Za-z]+\*?)\}")
FIRST_ARGUMENT = re.compile(r"\s*(\{\d*\}|\[[tcb]\])")  # columns of alignat, the place of aligned
UNSHOWN = re.compile(r"\\label\s*\{[^{}]*\}|\\(?:nonumber|notag)(?![A-Za-z])")
MULTLINE = re.compile(r"\\begin\{multline(?:d|\*)?\}")
REFERENCE = re.compile(r"\\(eqref|ref)\s*\{([^{}]*)\}")
TAG = re.compile(r"\\tag\s*\{([^{}]*)\}")
# The converter writes the argument of \text{} without escaping it; these stand for < > & until it is done
MARKS = (("<", "\ue000", "&lt;"), (">", "\ue001", "&gt;"), ("&", "\ue002", "&amp;"))


def mathml(tex: str, *, display: bool) -> str:
    """MathML of a formula, or its source as code where the converter cannot read it. Never raises."""
    source = f'<code class="math-source">{escape(tex.strip())}</code>'
    if not tex.strip() or len(tex) > LENGTH_LIMIT or tex.count("{") > LENGTH_LIMIT // 8 or _depth(tex) > DEPTH_LIMIT:
        return source
    from latex2mathml.converter import convert

    try:
        xml = convert(_guard_text(known_environments(tex.strip())), display="block" if display else "inline")
        for _, mark, entity in MARKS:
            xml = xml.replace(mark, entity)
        tree = ElementTree.fromstring(xml)
    except Exception:  # noqa: BLE001 - the converter's errors have no common class, and a wrong formula must not stop a reply
        return source
    if any(_local_name(element.tag) not in MATH_TAGS for element in tree.iter()):
        return source
    if MULTLINE.match(tex.strip()):
        xml = _set_apart(tree)
    return xml.replace("<math ", f'<math alttext="{escape(tex.strip())}" ', 1)  # what is copied is the source


def _set_apart(tree: ElementTree.Element) -> str:
    """A formula over several lines: the first begins on the left, the last ends on the right."""
    for element in tree.iter():
        element.tag = _local_name(element.tag)
    tree.set("xmlns", MATHML)
    table = tree.find(".//mtable")
    rows = [] if table is None else list(table)
    for row, side in ((rows[:1], "left"), (rows[1:][-1:], "right")):
        for cell in (cell for one in row for cell in one):
            cell.set("columnalign", side)
    return ElementTree.tostring(tree, encoding="unicode")


def _local_name(tag: object) -> str:
    return str(tag).rpartition("}")[2]


def known_environments(tex: str) -> str:
    """The same formula in environments that the converter knows; labels are gone, and what refers to them has their names."""
    parts: list[str] = []
    at = 0
    for found in ENVIRONMENT.finditer(tex):
        name = ENVIRONMENTS.get(found[2])
        if name is None:
            continue
        parts += [tex[at : found.start()], f"\\{found[1]}{{{name}}}" if name else ""]
        argument = FIRST_ARGUMENT.match(tex, found.end()) if found[1] == "begin" and name else None
        at = argument.end() if argument else found.end()
    return TAG.sub(r"\\qquad\\text{(\1)}", UNSHOWN.sub("", REFERENCE.sub(_named, "".join((*parts, tex[at:])))))


def _named(found: re.Match[str]) -> str:
    """A reference by the name of its label: formulas have no numbers but those they are given."""
    return rf"\text{{({found[2]})}}" if found[1] == "eqref" else rf"\text{{{found[2]}}}"


def _guard_text(tex: str) -> str:
    def marked(found: re.Match[str]) -> str:
        text = found.group(0)
        for character, mark, _ in MARKS:
            text = text.replace(character, mark)
        return text

    return TEXT_ARGUMENT.sub(marked, tex)


def _depth(tex: str) -> int:
    deepest = depth = 0
    for character in tex:
        depth += (character in "{[") - (character in "}]")
        deepest = max(deepest, depth)
    return deepest


def math_plugin(md: MarkdownIt) -> None:
    """Add the block and inline rules and their renderers."""
    md.block.ruler.before("fence", "math_block", math_block, {"alt": ["paragraph", "blockquote", "list"]})
    md.inline.ruler.before("escape", "math_inline", math_inline)
    md.add_render_rule("math_block", render_math_block)
    md.add_render_rule("math_inline", render_math_inline)


def math_block(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """A formula on lines of its own. It ends at its closing mark or, as in TeX, at a blank line.

    Where a block begins never depends on text that comes later: that is what lets a streaming renderer keep finished blocks.
    """
    if state.is_code_block(start_line):
        return False
    first = _line(state, start_line).strip()
    environment = BLOCK_ENVIRONMENT.match(first)
    for opening, closing in ((environment[0], f"\\end{{{environment[1]}}}"),) if environment else BLOCK_ENDS:
        if not first.startswith(opening):
            continue
        rest = first[len(opening):]
        if closing in rest:
            if not rest.endswith(closing) or rest.index(closing) != len(rest) - len(closing):
                return False  # a formula at the beginning of a sentence: the inline rule takes it
            content, next_line, closed = rest[: -len(closing)], start_line + 1, True
        else:
            content, next_line, closed = _following_lines(state, rest, start_line, end_line, closing)
        if environment and closed:
            content = opening + content + closing
        if not silent:
            state.line = next_line
            token = state.push("math_block", "math", 0)
            token.block, token.content, token.map = True, content, [start_line, next_line]
            token.meta, token.markup = {"closed": closed}, opening
        return True
    return False


def _following_lines(state: StateBlock, rest: str, start_line: int, end_line: int, closing: str) -> tuple[str, int, bool]:
    lines = [rest]
    for line in range(start_line + 1, end_line):
        text = _line(state, line)
        if not text.strip() or state.sCount[line] < state.blkIndent:
            return "\n".join(lines), line, False
        if text.rstrip().endswith(closing):
            lines.append(text.rstrip()[: -len(closing)])
            return "\n".join(lines), line + 1, True
        lines.append(text)
    return "\n".join(lines), end_line, False


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line]:state.eMarks[line]]


def math_inline(state: StateInline, silent: bool) -> bool:
    """A formula inside a sentence."""
    for opening, closing in INLINE_ENDS:
        if not state.src.startswith(opening, state.pos):
            continue
        begin = state.pos + len(opening)
        end = _closing_position(state.src, begin, state.posMax, closing)
        content = state.src[begin:end] if end > begin else ""
        if not content.strip() or (opening == "$" and not _is_formula(content, state.src[end + 1:end + 2])):
            continue
        if not silent:
            token = state.push("math_inline", "math", 0)
            token.content, token.markup = content, opening
        state.pos = end + len(closing)
        return True
    return False


def _closing_position(source: str, begin: int, limit: int, closing: str) -> int:
    position = source.find(closing, begin, min(limit, begin + LENGTH_LIMIT))
    while closing == "$" and position > 0 and source[position - 1] == "\\":
        position = source.find(closing, position + 1, min(limit, begin + LENGTH_LIMIT))
    return position


def _is_formula(content: str, after: str) -> bool:
    return not (content[0].isspace() or content[-1].isspace() or after.isdigit() or MONEY.fullmatch(content))


def render_math_block(
    renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    """A closed formula as display math; one still being written as its source."""
    token = tokens[index]
    if not token.meta["closed"]:
        return f'<p class="math-open">{escape(token.markup + token.content)}</p>\n'
    return f'<div class="math-block" {REACHED}>{mathml(token.content, display=True)}</div>\n'


def render_math_inline(
    renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: MutableMapping[str, Any]
) -> str:
    """A formula inside a line; one between marks of display math is shown large there too."""
    token = tokens[index]
    return mathml(token.content, display=token.markup in ("$$", "\\["))
