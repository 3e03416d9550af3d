"""Text of an attacker in every place where the page shows text of others, but for messages (see test_rendering.py): it is shown, and nothing of it runs or is fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.document_files import PAGE_HTML
from tests.e2e.screens import ChatScreen, ModelsScreen, NotebookScreen, open_area
from tests.paddock_server import STARTER, PaddockServer, wait_for

ATTACK = (
    "<img src=x onerror='window.pwned=1'><img src='https://evil.example/i.png'><script>window.pwned=1</script><svg onload=window.pwned=1></svg>"
    "<a href='javascript:window.pwned=1'>x</a><iframe srcdoc='<script>parent.pwned=1</script>'></iframe>${window.pwned=1}{{constructor.constructor('window.pwned=1')()}}"
    "<style>*{background:url(https://evil.example/c)}</style>![i](https://evil.example/m.png)\"onmouseover='window.pwned=1'"
)
SHORT = ATTACK[:180]
NAME = "Attack"  # by which rows are found


@pytest.fixture
def planted(starter: PaddockServer) -> Iterator[str]:
    """The attack in every place; the conversation that has most of them."""
    made: list[tuple[str, str]] = []

    def post(path: str, body: object, method: str = "POST") -> dict[str, str]:
        return dict(starter.ask(method, path, body))

    chat = starter.make_conversation((("user", ATTACK), ("assistant", ATTACK)), title=f"{NAME} {SHORT[:150]}")
    post(f"ui/conversations/{chat}", {"tags": [SHORT[:40]], "settings": {"system_prompt": ATTACK}}, "PATCH")
    for place in ("characters", "profiles"):
        values = {"name": f"{NAME} {SHORT[:60]}", "description": ATTACK}
        more = {"first_mes": ATTACK, "creator_notes": ATTACK, "scenario": ATTACK, "tags": [SHORT[:40]]} if place == "characters" else {}
        made.append(("DELETE", f"ui/{place}/{quote(post(f'ui/{place}', {'values': {**values, **more}})['name'])}"))
    book = post("ui/notebooks", {"name": f"{NAME} {SHORT[:60]}", "text": ATTACK})["id"]
    made.append(("DELETE", f"ui/notebooks/{book}"))
    text = "{% raw %}" + ATTACK + "{% endraw %}{% for m in messages %}{{ m.content }}{% endfor %}"
    post("ui/templates/files/Attack", {"text": text, "description": SHORT, "stop": [], "stamp": ""}, "PUT")
    made.append(("DELETE", "ui/templates/files/Attack"))
    post("ui/library/note", {"name": STARTER, "note": SHORT})
    row = {"instruction": ATTACK, "output": ATTACK, SHORT[:40]: ATTACK}
    assert starter.http.post("ui/datasets/upload", params={"name": "attack.jsonl"}, content=json.dumps(row)).status_code == 200
    attached = starter.http.post(f"ui/conversations/{chat}/files", params={"name": "<img src=x onerror=window.pwned=1>.html"}, content=PAGE_HTML + ATTACK)
    assert attached.status_code == 200, attached.text
    yield chat
    for method, path in made:
        starter.http.request(method, path)
    starter.http.post("ui/library/note", json={"name": STARTER, "note": ""})
    starter.http.post("ui/datasets/delete", json={"name": "attack.jsonl"})
    starter.http.delete(f"ui/conversations/{chat}")


def check(page: Page, place: str) -> None:
    """Nothing ran, and nothing of it became a part of the page."""
    assert page.evaluate("window.pwned") is None, place
    for selector in ("img[src*='evil.example']", "[onerror]", "iframe[srcdoc]", "a[href^='javascript']", "[onmouseover]"):
        assert page.locator(selector).count() == 0, (place, selector)


def test_nothing_that_others_wrote_runs_anywhere(page: Page, starter: PaddockServer, planted: str) -> None:
    chat = ChatScreen(page, starter).open(planted)
    expect(chat.messages).to_have_count(2)
    expect(page.locator(".composer").get_by_role("list", name="Attached files")).to_contain_text("<img src=x")
    check(page, "conversation")
    page.locator(".cast-chip").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("listitem").filter(has_text=NAME).first).to_contain_text("<img src=x")
    dialog.get_by_role("listitem").filter(has_text=NAME).first.locator(".cast-row").click()
    expect(dialog).to_have_count(0)
    expect(page.locator(".cast-chip")).to_contain_text(NAME)
    check(page, "characters")
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.type(NAME)
    expect(page.get_by_role("dialog")).to_contain_text("<img src=x")
    check(page, "palette")
    page.keyboard.press("Escape")
    notebook = NotebookScreen(page, starter).show()
    page.get_by_title("All notebooks").click()
    panel = page.get_by_role("group", name="Notebooks", exact=True)
    panel.get_by_text(NAME).first.click()
    expect(notebook.text).to_have_value(re.compile(re.escape("window.pwned=1")))
    check(page, "notebook")
    models = ModelsScreen(page, starter).show()
    expect(models.row(STARTER)).to_contain_text("<img src=x")
    check(page, "models")
    open_area(page, "Templates")
    page.get_by_role("navigation", name="Templates").get_by_text(NAME, exact=True).first.click()
    expect(page.get_by_role("textbox", name="Template text")).to_have_value(re.compile("window.pwned=1"))
    check(page, "templates")
    open_area(page, "Training")
    expect(page.locator("#area-training, body")).not_to_have_count(0)
    wait_for(lambda: "attack.jsonl" in page.locator("body").inner_text(), "the data set is offered")
    check(page, "training")
