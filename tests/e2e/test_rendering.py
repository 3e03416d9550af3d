"""What messages may hold: code, tables, formulas, thinking, and what an attacker would write."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer, wait_for

CODE = "def add(a, b):\n    return a + b  # <b>sum</b>\n"
RICH = f"""<think>First I **consider** it.</think>
# A heading

A [link](https://example.org/page) and `inline code`.

```python
{CODE}```

| name | size |
|---|---|
| one | 1 |

$$\\int_0^1 x^2 \\, dx = \\frac{{1}}{{3}}$$

Inline $a^2 + b^2 = c^2$ too, says [the book][b][^1].

[^1]: On page 7.

[b]: https://example.org/book
"""
ATTACKS = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "[click](javascript:window.pwned=1)",
    "![image](https://example.org/track.png)",
    "<svg onload=window.pwned=1></svg>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "${window.pwned = 1}",
    "{{constructor.constructor('window.pwned = 1')()}}",
    "<style>body { display: none }</style>",
    "$$\\href{javascript:window.pwned=1}{x}$$",
    "<a href='data:text/html,<script>opener.pwned=1</script>'>x</a>",
    "<details open ontoggle=window.pwned=1>x</details>",
    "```html\n<script>window.pwned = 1</script>\n```",
    "<form action='https://example.org'><button>Send</button></form>",
)


def test_code_table_formula_and_thinking(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Show me everything."), ("assistant", RICH)), title="Rich"))
    body = chat.reply.locator(".body")
    expect(body.get_by_role("heading", name="A heading")).to_be_visible()
    expect(body.get_by_role("table")).to_contain_text("one")
    expect(body.locator("math")).to_have_count(2)
    expect(body.locator("math mfrac")).to_have_count(1)
    expect(body.locator(".code .k").first).to_have_text("def")
    body.get_by_role("button", name="Copy").click()
    wait_for(lambda: page.evaluate("navigator.clipboard.readText()") == CODE, "the code is on the clipboard")
    expect(body.get_by_role("link", name="link")).to_have_attribute("rel", "noopener noreferrer nofollow")

    expect(body.get_by_role("link", name="the book")).to_have_attribute("href", "https://example.org/book")
    body.get_by_role("button", name="1", exact=True).click()
    expect(body.locator(".footnote")).to_be_focused()
    expect(body.locator(".footnote")).to_contain_text("On page 7.")

    thinking = chat.reply.locator("details.thinking")
    expect(thinking.get_by_text("First I consider it.")).not_to_be_visible()
    thinking.locator("summary").click()
    expect(thinking.get_by_text("First I consider it.")).to_be_visible()
    expect(body).not_to_contain_text("consider")


@pytest.mark.parametrize("place", ["reply", "question", "title", "thinking"])
def test_nothing_that_is_written_runs(chat: ChatScreen, page: Page, starter: PaddockServer, place: str) -> None:
    page.add_init_script("window.alert = () => { window.pwned = 1; }")
    texts = [f"<think>{attack}</think>done" if place == "thinking" else attack for attack in ATTACKS]
    role = "user" if place == "question" else "assistant"
    title = "".join(ATTACKS[:5])[:180] if place == "title" else f"Attack on the {place}"
    chat.open(starter.make_conversation((("user", "Attack!"), *((role, text) for text in texts)), title=title))
    expect(chat.messages).to_have_count(1 + len(ATTACKS))
    for fold in page.locator("details.thinking summary").all():
        fold.click()
    for link in chat.log.get_by_role("link").all():
        assert (link.get_attribute("href") or "").startswith(("http://", "https://", "mailto:"))
    assert chat.log.locator("script, iframe, form, style, object, embed, img[src^='http'], [onerror], [onload], [ontoggle]").count() == 0
    expect(chat.box).to_be_visible()
    if place == "title":
        expect(chat.sidebar.locator("li.open .title")).to_have_text(title)
        chat.press_row(title[:60], "Rename")
        page.keyboard.press("Escape")
    assert page.evaluate("window.pwned") is None


def test_a_reply_is_streamed_safely(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    """What a model writes goes through the same rules while it grows: it repeats an attack that it was given to continue."""
    attack = "<img src=x onerror='window.pwned = 1'> and"
    chat.open(starter.make_conversation((("user", "Go on."), ("assistant", attack)), title="Continued attack"))
    chat.press(chat.reply, "Continue this reply")
    wait_for(lambda: len(starter.text(starter.conversation(chat.id)["messages"][-1]["id"])) > len(attack), "the reply grew")
    chat.done()
    expect(chat.reply.locator(".body")).to_contain_text("<img src=x")
    assert page.evaluate("window.pwned") is None


FORMULAS = r"""A matrix, cases and lines that stand below each other; it costs $5, not $6.

$$A = \begin{pmatrix} a & b \\ c & d \\ e & f \\ g & h \end{pmatrix} \qquad f(x) = \begin{cases} x^2 & \text{if } x > 0 \\ -x & \text{otherwise} \end{cases}$$

\begin{align}
a + b + c &= d \\
x &= y^2 + z \label{eq:one}
\end{align}

$$\begin{aligned} \sum_{n=1}^{\infty} \frac{1}{n^2} &= \frac{\pi^2}{6} \\ \int_0^\infty e^{-x^2}\,dx &= \frac{\sqrt{\pi}}{2} \end{aligned}$$
"""
# Where the equals signs of each aligned formula stand, and where the halves of the cases begin
PLACES = """() => ({
  equals: [...document.querySelectorAll('.message.assistant math')].slice(1).map((math) => [...math.querySelectorAll('mtr > mtd:nth-child(2) > mo')].filter((mo) => mo.textContent === '=').map((mo) => mo.getBoundingClientRect().left)),
  rights: [...document.querySelectorAll('.message.assistant math')].slice(1).map((math) => [...math.querySelectorAll('mtr > mtd:first-child > :last-child')].map((end) => end.getBoundingClientRect().right)),
  cases: [...document.querySelectorAll('.message.assistant math')][0].querySelectorAll('mtable')[1].querySelectorAll('mtr > mtd:first-child > :first-child').values().map((cell) => cell.getBoundingClientRect().left).toArray(),
})"""


def test_formulas_stand_as_in_a_book(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Show formulas."), ("assistant", FORMULAS)), title="Formulas"))
    maths = chat.reply.locator(".body math")
    expect(maths).to_have_count(3)
    expect(chat.reply.locator(".math-source, .math-open")).to_have_count(0)
    expect(chat.reply.locator(".body p").first).to_contain_text("it costs $5, not $6")
    wait_for(lambda: page.evaluate("document.fonts.check('20px \"STIX Two Math\"')"), "the font has come from this server")
    assert page.evaluate("[...document.fonts].some((font) => font.family.includes('STIX Two Math') && font.status === 'loaded')")
    bracket, table = maths.first.locator("mo").nth(1).bounding_box(), maths.first.locator("mtable").first.bounding_box()
    assert bracket is not None
    assert table is not None
    assert bracket["height"] > 0.9 * table["height"] > 60
    places = page.evaluate(PLACES)
    assert [len(row) for row in places["equals"]] == [2, 2]
    for row in (*places["equals"], *places["rights"], places["cases"]):
        assert max(row) - min(row) < 1.5, places
    page.evaluate("""() => { const range = document.createRange(); range.selectNodeContents(document.querySelectorAll('.message.assistant .math-block')[1]);
        document.getSelection().removeAllRanges(); document.getSelection().addRange(range); document.execCommand('copy'); }""")
    wait_for(lambda: "x &= y^2 + z" in page.evaluate("navigator.clipboard.readText()"), "the source is on the clipboard")
