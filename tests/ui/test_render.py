"""Rendering: safe whatever the text, and the same streamed as at once."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.ui.references import Definitions
from modules.ui.render import ENTRY_SIZE, BlockCache, Renderer, StreamingRenderer, render_blocks

RENDERER = Renderer()
PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox)",
    "[x](/gradio_api/file=/etc/hostname)",
    "![x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    '![x](https://e.example/"onerror="alert(1))',
    "<https://e.example/\"onmouseover=alert(1)>",
    "<javascript:alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<details open ontoggle=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "```html\n<script>alert(1)</script>\n```",
    "```\"><script>alert(1)</script>\nx\n```",
    "$\\text{<img src=x onerror=alert(1)>}$",
    "$$\\text{</mtext></math><script>alert(1)</script>}$$",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\color{red\" onclick=\"alert(1)}x$",
    "$\\style{x}{<svg onload=alert(1)>}$",
    "| a |\n|---|\n| <script>alert(1)</script> |",
    "${Object.assign(window,{pwn:[7]})?1:0}",
    "{{constructor.constructor('alert(1)')()}}",
    "[a]: javascript:alert(1)\n\n[a]",
    "[a]: https://e.example/\"onmouseover=alert(1)\n\n[a] [x][a] ![x][a]",
    "[a]: <https://e.example/> '\"onmouseover=alert(1) x=\"'\n\n[a]",
    "[^\"><script>alert(1)</script>]: note\n\n[^\"><script>alert(1)</script>]",
    "[^1]: <img src=x onerror=alert(1)>\n\nx[^1]",
    "- [ ] <input onfocus=alert(1) autofocus>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
)


class Watch(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag in {"script", "style", "iframe", "object", "embed", "img", "svg", "form", "link", "meta", "video", "audio", "base"}:
            self.found.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name in {"src", "srcset", "srcdoc", "action", "formaction", "id", "name"}:
                self.found.append(f"{tag} {name}")
            if name in {"href", "xlink:href"} and not re.match(r"(https?|mailto):", value or ""):
                self.found.append(f"{tag} {name}={value}")


def dangers(html):
    watch = Watch()
    watch.feed(html)
    watch.close()
    return watch.found


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payload_is_harmless_alone_and_inside_other_text(payload):
    for text in (payload, f"Hello {payload} there", f"# {payload}", f"> {payload}", f"- {payload}", f"**{payload}**"):
        assert dangers("".join(render_blocks(text))) == []


def test_the_watch_itself_sees_what_it_must():
    assert dangers("<p onclick=x><img src=y><a href='javascript:1'>") == ["p onclick", "img", "img src", "a href=javascript:1"]


PIECES = st.sampled_from([
    "# Title", "text", " ", "\n", "\n\n", "- item", "1.", "2) b", "    code", "```", "```python\ndef f(): pass", "~~~", "$$", "\\[", "\\]", "$x^2$",
    "\\(a\\)", "| a | b |", "|---|---|", "> quote", "---", "===", "*", "**bold**", "`c`", "<b>", "[x](y)", "[x](https://a.b)", "![i](https://a.b/c)",
    "- [ ] todo", "- [x] done", "[a]", "[x][a]", "![x][A]", "\n[a]: https://a.b", "\n[a]: https://c.d 'title'", "[^1]", "\n[^1]: note", "\n\n    more", "[^n]", "> [^n]: note", "\n[a]:",
    "\t", "\\", "&amp;", "https://example.com", "\\frac{1}{2}", "\\begin{align}", "\\end{align}", "\\begin{equation*}x\\end{equation*}", "{", "}", "~~s~~", "+", "é😀", "\x00", "\r\n", "<!--",
])  # fmt: skip
MARKDOWN = st.lists(PIECES | st.text(max_size=8), max_size=30).map("".join)


@given(st.text() | MARKDOWN)
@settings(max_examples=200, deadline=None)
def test_any_text_renders_without_error_and_without_danger(text):
    assert dangers("".join(RENDERER.blocks(text))) == []


@given(MARKDOWN, st.lists(st.integers(1, 12), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_streamed_blocks_equal_those_rendered_at_once(text, steps):
    streaming, shown, position, turn = StreamingRenderer(RENDERER), [], 0, 0
    while position < len(text):
        position += steps[turn % len(steps)]
        turn += 1
        first, blocks = streaming.feed(text[:position])
        assert first <= len(shown)
        shown[first:] = blocks[first:]
        assert tuple(shown) == RENDERER.blocks(text[:position])
    assert tuple(shown) == RENDERER.blocks(text) or not text


def test_streaming_touches_only_the_open_block():
    rendered = []

    class Counting(Renderer):
        def group_html(self, tokens):
            rendered.append(tokens[0].type)
            return super().group_html(tokens)

    streaming = StreamingRenderer(Counting())
    text = "".join(f"Paragraph {i}.\n\n" for i in range(200))
    streaming.feed(text)
    rendered.clear()
    first, blocks = streaming.feed(text + "And now")
    assert first == 200 and len(blocks) == 201
    assert len(rendered) <= 4


def test_lone_surrogates_and_huge_texts_are_shown_not_raised():
    assert "?" in "".join(render_blocks("a\ud800b"))
    assert len(render_blocks("x" * 500_000)) == 1
    assert RENDERER.blocks("[" * 30_000)
    assert RENDERER.blocks("$" + "{" * 5000 + "$")


def test_code_gets_a_label_a_button_and_colours():
    (html,) = render_blocks("```python\ndef f():\n    return 1\n```")
    assert '<span class="code-lang">python</span>' in html
    assert "code-copy" in html and '<span class="k">def</span>' in html


def test_an_open_fence_is_closed_while_streaming():
    (html,) = render_blocks("```js\nlet a = 1")
    assert html.count("<pre") == html.count("</pre>") == 1


@pytest.mark.parametrize("text", ["$e^{i\\pi}$", "\\(a+b\\)", "so $$x^2$$ it is", "$$\n\\frac{1}{2}\n$$", "\\[\nx\n\\]", "\\[ \\sqrt 2 \\]"])
def test_formulas_become_mathml(text):
    html = "".join(render_blocks(text))
    assert "<math" in html and "$" not in html


@pytest.mark.parametrize("text", ["It costs $5 and then $7 more.", "From $5 to US$ 7", "a \\$5 b $", "$ x $", "`$x$`", "    $x$"])
def test_money_and_code_are_no_formulas(text):
    assert "<math" not in "".join(render_blocks(text))


def test_a_broken_formula_shows_its_source():
    assert "\\left( x" in "".join(render_blocks("$\\left( x$"))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (r"\begin{align} a &= b \\ c &= d \end{align}", 2),
        ("Before\n\\begin{align*}\na &= b \\\\\nc &= d\n\\end{align*}\nafter", 2),
        (r"$$\begin{aligned}[t] a &= b \\ c &= d \end{aligned}$$", 2),
        (r"\begin{alignat}{2} a &= b & c &= d \nonumber \end{alignat}", 1),
        (r"\begin{gather} a \label{eq:a} \\ b \\ c \end{gather}", 3),
        (r"$$\left\{ \begin{aligned} x \\ y \end{aligned} \right.$$", 2),
        (r"\begin{equation} E = mc^2 \tag{1} \end{equation}", 0),
        (r"$f = \begin{dcases} 1 & x \\ 0 & y \end{dcases}$", 2),
    ],
    ids=range(8),
)
def test_environments_are_formulas(text, rows):
    html = "".join(render_blocks(text))
    assert html.count("<math") == 1 and "math-source" not in html
    assert html.count("<mtr") == rows
    assert "label" not in re.sub(r'alttext="[^"]*"', "", html)


def test_an_environment_that_is_still_being_written_is_shown_as_its_source():
    (html,) = render_blocks("\\begin{align}\na &= b")
    assert "math-open" in html and "\\begin{align}" in html
    assert "<math" not in "".join(render_blocks("\\begin{verbatim} x \\end{verbatim}"))


def test_a_formula_carries_its_source_for_copying():
    (html,) = render_blocks('$$a "<b>" c$$')
    assert 'alttext="a &quot;&lt;b&gt;&quot; c"' in html


def test_less_than_inside_text_of_a_formula_survives():
    assert "a &lt; b &amp; c" in "".join(render_blocks("$\\text{a < b & c}$")).replace("&nbsp;", " ")


def test_images_are_links():
    html = "".join(render_blocks("![cat](https://e.example/cat.png) [![dog](https://e.example/d.png)](https://e.example)"))
    assert "<img" not in html and html.count("<a ") == 2 and "cat" in html and "dog" in html


def test_tables_tasks_breaks_and_links():
    html = "".join(render_blocks("| a | b |\n|:--|--:|\n| 1 | 2 |\n\n- [x] done\n\none\ntwo ~~three~~ https://example.com server.py"))
    assert "text-align:right" in html.replace(": ", ":") and 'checked="checked"' in html and "<br>" in html and "<s>three</s>" in html
    assert html.count("<a ") == 1 and 'rel="noopener noreferrer nofollow"' in html and 'target="_blank"' in html


def test_one_block_for_each_top_level_element():
    assert len(render_blocks("# a\n\nb\n\n- c\n- d\n\n> e\n\n```\nf\n```")) == 5


def test_cache_renders_once_and_forgets_the_oldest():
    calls = []

    class Counting(Renderer):
        def blocks(self, text):
            calls.append(text)
            return super().blocks(text)

    cache = BlockCache(Counting(), size=2 * (ENTRY_SIZE + len("<p>a</p>") + 1))
    for text in ("a", "b", "".join(("a",)), "c", "a", "b", "\ud800"):
        assert cache.blocks(text) == RENDERER.blocks(text)
    assert calls == ["a", "b", "c", "b", "\ud800"]
    huge = "x" * 2000  # larger than the cache: nothing is kept, nothing breaks
    assert cache.blocks(huge) == cache.blocks(huge) == RENDERER.blocks(huge)
    assert calls[5:] == [huge, huge]


def test_reference_links_are_followed_wherever_they_are_defined():
    html = "".join(render_blocks("See [the guide][g], [G] and [g][].\n\n> ![cat][g]\n\n[g]: <https://a.example/x> \"A guide\"\n[g]: https://later.example\n"))
    assert html.count('href="https://a.example/x"') == 4 and html.count('title="A guide"') == 3
    assert "later" not in html and "]:" not in html
    assert "[x]" in "".join(render_blocks("arr[x]\n\n[x]: not an address\n"))


def test_notes_stand_where_they_are_written_and_are_marked_where_they_are_used():
    first, note, last = render_blocks("So it is[^1], not[^2].\n\n[^1]: Says **Ada**.\n\n    And more.\n\nEnd[^1]")
    assert first == '<p>So it is<sup><button type="button" class="footnote-mark" title="Footnote 1">1</button></sup>, not[^2].</p>\n'
    assert note.startswith('<div class="footnote" tabindex="-1"><span class="footnote-label">1</span>') and "<strong>Ada</strong>" in note and "And more" in note
    assert "footnote-mark" in last
    assert render_blocks("`[^1]` matches\n\n[^1]: x")[0] == "<p><code>[^1]</code> matches</p>\n"


def test_a_definition_changes_only_the_blocks_that_use_it():
    streaming = StreamingRenderer(RENDERER)
    text = "[a] is here.\n\n" + "".join(f"Paragraph {i} with [b{i}].\n\n" for i in range(50))
    streaming.feed(text)
    assert streaming.feed(text + "[b7]: https://x.example\n").first == 8
    first, blocks = streaming.feed(text + "[b7]: https://x.example\n[a]: https://y.example\n\nEnd")
    assert (first, len(blocks)) == (0, 52)
    assert blocks == RENDERER.blocks(text + "[b7]: https://x.example\n[a]: https://y.example\n\nEnd")
    assert [place for place, block in enumerate(blocks) if "href" in block] == [0, 8]


def test_a_formula_of_several_lines_begins_on_the_left_and_ends_on_the_right():
    (html,) = render_blocks("\\begin{multline*}\na + \\begin{matrix} x \\\\ y \\end{matrix} \\\\\nb \\\\\nc < d\n\\end{multline*}")
    assert html.count("columnalign") == 2
    assert '<mtr><mtd columnalign="left"><mi>a</mi>' in html and '<mtr><mtd columnalign="right"><mi>c</mi>' in html


def test_a_reference_to_a_formula_shows_the_name_of_its_label():
    html = "".join(render_blocks("$x = y \\label{eq:one}$ and $\\eqref{eq:one} + \\ref{a<b}$"))
    assert "<mtext>(eq:one)</mtext>" in html and "<mtext>a&lt;b</mtext>" in html


def test_what_was_defined_before_costs_nothing_while_more_is_written(monkeypatch):
    looked = []
    meaning = Definitions.meaning
    monkeypatch.setattr(Definitions, "meaning", lambda self, labels: looked.append(labels) or meaning(self, labels))
    streaming = StreamingRenderer(RENDERER)
    text = "[a]: https://x.example\n\n" + "".join(f"Paragraph {i} with [b{i}].\n\n" for i in range(200))
    streaming.feed(text)
    looked.clear()
    streaming.feed(text + "And [a] now")
    assert len(looked) <= 2
