"""For everybody: keyboard, names of controls, contrast, phone, dark; nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen, open_area
from tests.paddock_server import LONG, PaddockServer, wait_for

AREAS = ("Chat", "Notebook", "Models")
# Controls that can be seen and have no name of any kind
NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, select, a[href], summary')].filter((element) => {
  if (!element.checkVisibility({ visibilityProperty: true }) || element.type === 'hidden') return false;
  const name = element.getAttribute('aria-label') || element.title || element.innerText.trim() || [...(element.labels ?? [])].map((l) => l.textContent.trim()).join('')
    || (element.getAttribute('aria-labelledby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join('').trim();
  return !name;
}).map((element) => element.outerHTML.slice(0, 160))"""
# Elements that reach beyond the right edge of the window, except inside what scrolls by itself or is drawn in from the side
OVERFLOWING = """() => [...document.querySelectorAll('#areas *')].filter((element) => {
  if (!element.checkVisibility({ visibilityProperty: true })) return false;
  const box = element.getBoundingClientRect();
  if (box.width === 0 || box.right <= innerWidth + 1) return false;
  for (let up = element.parentElement; up; up = up.parentElement) if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX) && up.matches('pre, .table, .math-block')) return false;
  return true;
}).map((element) => element.outerHTML.slice(0, 120))"""
# Texts whose contrast with what lies behind them is below 4.5 (large ones: 3), as WCAG counts it
FAINT = """() => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
  const rgba = (text) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1); const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, low) => [0, 1, 2].map((i) => top[i] * top[3] + low[i] * (1 - top[3])).concat(1);
  const behind = (element) => { const layers = []; for (let up = element; up; up = up.parentElement) { const c = rgba(getComputedStyle(up).backgroundColor); layers.push(c); if (c[3] === 1) break; }
    return layers.reverse().reduce((low, top) => over(top, low), [255, 255, 255, 1]); };
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const found = [];
  for (const element of document.querySelectorAll('#side *, #areas *, #drawer *, #settings-button *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || element.closest(':disabled, [aria-disabled="true"], svg, math')) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2 || box.right < 0 || box.left > innerWidth) continue;
    const style = getComputedStyle(element), low = behind(element), text = over(rgba(style.color), low);
    const [a, b] = [light(text), light(low)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.6 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${element.textContent.trim().slice(0, 40)} <${element.tagName.toLowerCase()} class="${element.className}">`);
  }
  return found;
}"""
# What has the focus, and whether that can be seen
FOCUSED = """() => { const element = document.activeElement, style = getComputedStyle(element);
  if (element === document.body) return ['', true]; // after the last control the browser's own ones would come
  return [element.getAttribute('aria-label') || element.textContent.trim() || element.id,
    element.matches('textarea, input') || (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0)]; }"""
TALK = (
    ("user", "A question that is long enough to fill more than one line on a telephone held upright, with a verylongwordthatdoesnotfitanywherebecauseithasnospaces."),
    ("assistant", "# Answer\n\n```python\nprint('a long line of code that surely does not fit into three hundred and ninety pixels', end='')\n```\n\n"
                  "| a | b | c | d | e |\n|---|---|---|---|---|\n| some words | some words | some words | some words | some words |\n\n> quoted `code`\n\n$$a+b$$"),
)  # fmt: skip


@pytest.mark.usefixtures("unhurried")
def test_the_keyboard_is_enough(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(settings=LONG, title="Keys"))
    expect(chat.box).to_be_focused()
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    expect(chat.box).to_have_value("first line\nsecond line")
    expect(chat.asked).to_have_count(0)
    page.keyboard.press("Enter")
    expect(chat.asked).to_contain_text("second line")
    chat.begun()
    page.keyboard.press("Escape")
    chat.done()
    expect(chat.reply).to_have_attribute("data-status", re.compile("stopped|complete"))
    page.keyboard.press("ControlOrMeta+Shift+O")
    expect(page.locator("p.lead", has_text="What shall we work on?")).to_be_visible()


def test_the_focus_can_be_seen_and_reaches_the_main_controls(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "hi"), ("assistant", "Hello.")), title="Focus"))
    expect(page.get_by_text("Hello.")).to_be_visible()
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_be_editable()
    page.get_by_role("button", name="Skip the list").focus()  # the first of all
    assert {"New chat", "Search conversations"} <= reached_by_tab(page, 4)
    page.get_by_role("button", name="Skip the list").press("Enter")
    expect(page.get_by_role("tab", name="Chat")).to_be_focused()
    reached = reached_by_tab(page, 40)
    assert {"Message", "Settings", "Copy", "Regenerate: another version"} <= reached, reached


def reached_by_tab(page: Page, presses: int) -> set[str]:
    """Names of what the Tab key reaches; each must show its focus."""
    reached = set()
    for _ in range(presses):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(FOCUSED)
        assert outline, f"the focus on “{name}” cannot be seen"
        reached.add(name)
    return reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_every_text_can_be_read(
    new_context: Callable[..., BrowserContext], starter: PaddockServer, scheme: str
) -> None:
    page = new_context(color_scheme=scheme).new_page()
    ChatScreen(page, starter).open(starter.make_conversation(TALK, title="Readable"))
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_role("textbox", name="System prompt")).to_be_visible()
    page.wait_for_timeout(400)  # the drawer slides in
    for area in AREAS:
        open_area(page, area)
        page.wait_for_timeout(250)  # colours of the chosen tab fade in
        assert page.evaluate(NAMELESS) == [], area
        assert page.evaluate(FAINT) == [], area
    open_area(page, "Chat")
    expect(page.get_by_role("log", name="Conversation")).to_have_count(1)


def test_a_phone_shows_everything(new_context: Callable[..., BrowserContext], starter: PaddockServer) -> None:
    page = new_context(viewport=PHONE, has_touch=True, is_mobile=True).new_page()
    chat = ChatScreen(page, starter).open(starter.make_conversation(TALK, title="On the phone"))
    for area in AREAS:
        open_area(page, area)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], area
        assert page.evaluate(NAMELESS) == [], area
        assert page.evaluate(OVERFLOWING) == [], area
    open_area(page, "Chat")
    expect(chat.row("On the phone")).not_to_be_visible()
    page.get_by_role("button", name="Conversations", exact=True).tap()
    expect(chat.row("On the phone")).to_be_visible()
    page.get_by_role("button", name="Close the list").tap()
    expect(chat.row("On the phone")).not_to_be_visible()
    settings_end_where_they_are_read(page)
    chat.box.fill("hello")
    chat.send_button.tap()
    expect(chat.replies).to_have_count(2)
    assert chat.done()
    box = page.locator(".composer-box").bounding_box()
    assert box is not None
    assert PHONE["height"] - 30 < box["y"] + box["height"] <= PHONE["height"]


def settings_end_where_they_are_read(page: Page) -> None:
    """The drawer covers a phone: the way out stays in sight, and Escape is one too."""
    page.get_by_role("button", name="Settings", exact=True).tap()
    label = page.locator("#drawer [data-testid='block-info']").first  # Gradio lays labels above what they stand in
    covered = "(label) => { document.querySelector('#drawer').scrollTop += label.getBoundingClientRect().top - 12; const { left, top } = label.getBoundingClientRect(); return Boolean(document.elementFromPoint(left + 5, top + 5)?.closest('#settings-bridge')); }"
    wait_for(lambda: label.evaluate(covered), "the drawer has slid in and scrolls")
    page.locator("#drawer").evaluate("drawer => drawer.scrollTo(0, drawer.scrollHeight)")
    expect(page.get_by_label("System prompt")).not_to_be_in_viewport()
    done = page.get_by_role("button", name="Done", exact=True)
    expect(done).to_be_in_viewport()
    done.tap()
    expect(page.locator("#drawer")).not_to_be_visible()
    page.get_by_role("button", name="Settings", exact=True).tap()
    expect(done).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#drawer")).not_to_be_visible()


@pytest.mark.parametrize("window", [(1280, 800), (3840, 2160), (820, 1180)], ids=str)
def test_the_areas_fill_the_window(new_context: Callable[..., BrowserContext], starter: PaddockServer, window: tuple[int, int]) -> None:
    width, height = window
    page = new_context(viewport={"width": width, "height": height}).new_page()
    ChatScreen(page, starter).open(starter.make_conversation((("user", "hi"),), title="Window"))
    composer = page.locator(".composer").bounding_box()
    assert composer is not None
    assert height - 12 <= composer["y"] + composer["height"] <= height
    NotebookScreen(page, starter).show()
    text, bar = page.locator(".notebook-text").bounding_box(), page.locator(".notebook-bar").bounding_box()
    assert text is not None
    assert bar is not None
    assert text["height"] > 0.5 * height
    assert bar["y"] + bar["height"] <= height
    ModelsScreen(page, starter).show()
    assert page.evaluate("document.documentElement.scrollHeight") <= height
    assert page.evaluate(OVERFLOWING) == []


def test_a_whole_tour_asks_only_this_server(chat: ChatScreen, page: Page, watch: ConsoleWatch) -> None:
    chat.open()
    chat.say("hello")
    for area in AREAS:
        open_area(page, area)
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.get_by_role("textbox", name="System prompt")).to_be_visible()
    assert len(watch.addresses) > 20
    assert watch.unexpected() == []
    policy = page.request.get(chat.server.url).headers["content-security-policy"]
    assert "connect-src 'self'" in policy


def serious(page: Page, where: str) -> list[str]:
    """What axe finds that keeps people out."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [f"{where}: {row['id']}: {row['nodes'][0]['html'][:160]}" for row in found if row["impact"] in ("serious", "critical")]


def test_axe_finds_nothing_serious(page: Page, starter: PaddockServer) -> None:
    ChatScreen(page, starter).open(starter.make_conversation(TALK, title="Examined"))
    found = []
    for area in (*AREAS, "Training", "Templates"):
        open_area(page, area)
        page.wait_for_timeout(250)  # colours of the chosen tab fade in
        found += serious(page, area)
    open_area(page, "Chat")
    page.keyboard.press("ControlOrMeta+S")
    expect(page.get_by_role("textbox", name="System prompt")).to_be_visible()
    page.wait_for_timeout(400)  # the drawer slides in
    found += serious(page, "settings")
    page.keyboard.press("ControlOrMeta+K")
    expect(page.get_by_role("dialog", name="Jump to").get_by_role("option").first).to_be_visible()
    found += serious(page, "palette")
    page.keyboard.press("Escape")
    page.get_by_role("log", name="Conversation").click(position={"x": 5, "y": 5})
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    found += serious(page, "keys")
    assert found == []
    page.get_by_role("dialog").evaluate("dialog => dialog.append(document.createElement('button'))")
    assert serious(page, "a button without a name") != []


@pytest.mark.parametrize("options", [{}, {"viewport": PHONE, "color_scheme": "dark"}], ids=["light", "phone, dark"])
def test_the_description_of_the_api_can_be_read_by_everybody(new_context: Callable[..., BrowserContext], server: PaddockServer, options: dict[str, Any]) -> None:
    page = new_context(**options).new_page()
    page.goto(f"{server.url}v1/docs")
    page.get_by_role("link", name="POST /v1/chat/completions").click()
    expect(page.get_by_role("heading", name="POST /v1/chat/completions")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [found["id"] for found in Axe().run(page).response["violations"]] == []
