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

Inline $a^2 + b^2 = c^2$ too.
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
