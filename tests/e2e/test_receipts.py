"""The whole receipt of a reply, what the model saw, and replies that were interrupted."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from tests.e2e.screens import ChatScreen
from tests.paddock_server import STARTER, PaddockServer

SHORT = {"preset": "", "params": {"temperature": 0, "max_tokens": 12}, "system_prompt": "Answer in one sentence."}
INTERRUPTED = "The server stopped while this was being written; the text so far was kept."


def test_a_receipt_is_opened_and_shows_what_the_model_saw(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Hi.")), title="Receipt", settings=SHORT))
    chat.say("What is a LoRA?")
    receipt = chat.reply.locator("details.receipt")
    receipt.locator("summary").first.click()
    more = receipt.locator(".receipt-more")
    expect(more.locator("dd").filter(has_text="llama-cpp-python")).to_be_visible()
    expect(more.locator("dd").filter(has_text="max_tokens 12, temperature 0")).to_be_visible()
    more.get_by_text(re.compile(r"All \d+ values")).click()
    expect(more.get_by_text("top_k")).to_be_visible()
    more.get_by_role("button", name="What the model saw").click()
    saw = page.get_by_role("dialog", name="What the model saw")
    expect(saw.get_by_text("This is what the model saw")).to_be_visible()
    text = saw.get_by_role("document", name="The prompt")
    expect(text).to_contain_text("Answer in one sentence.")
    expect(text.locator(".tok.r-user").first).to_be_visible()
    expect(saw.get_by_label("Tokens by message")).to_contain_text("System")
    said = "".join(str(piece) for piece in text.locator(".tok.r-user").all_text_contents())
    assert said.strip() == "HelloWhat is a LoRA?"
    page.keyboard.press("Escape")
    expect(saw).to_have_count(0)
    more.get_by_role("button", name="Replay").click()
    expect(chat.reply.locator(".versions")).to_contain_text("2/2")
    expect(chat.reply.locator("details.receipt summary").first).to_contain_text("replay: the same text")


def test_what_the_model_saw_stays_when_settings_change(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Hi.")), settings=SHORT))
    chat.say("What is a LoRA?")
    starter.ask("PATCH", f"ui/conversations/{chat.id}", {"settings": {"system_prompt": "Other."}})
    chat.reply.locator("details.receipt summary").first.click()
    chat.reply.get_by_role("button", name="What the model saw").click()
    expect(page.get_by_role("dialog").get_by_text("This is what the model saw")).to_be_visible()
    expect(page.get_by_role("document", name="The prompt")).to_contain_text("Answer in one sentence.")


def test_a_replay_that_differs_shows_both_texts(chat: ChatScreen, starter: PaddockServer) -> None:
    told = {"role": "assistant", "content": "Bananas are blue.", "receipt": {"seed": 5, "params": SHORT["params"]}}
    body = {"title": "Differs", "settings": SHORT, "messages": [{"role": "user", "content": "What is a LoRA?"}, told]}
    chat.open(starter.ask("POST", "ui/conversations/import", body)["id"])
    chat.reply.locator("details.receipt summary").first.click()
    chat.reply.get_by_role("button", name="What the model saw").click()
    expect(chat.page.get_by_text("The receipt names no hash of the prompt")).to_be_visible()
    chat.page.keyboard.press("Escape")
    chat.reply.get_by_role("button", name="Replay").click()
    expect(chat.reply.locator(".versions")).to_contain_text("2/2")
    now = chat.done()
    short = chat.reply.locator("details.receipt summary").first
    expect(short).to_contain_text("replay: differs from character")
    place = int(short.inner_text().split("from character ")[1].split()[0]) - 1
    short.click()
    figures = chat.reply.locator(".replay-texts figure")
    expect(figures.filter(has_text="It was").locator("mark")).to_have_text("Bananas are blue."[place:])
    expect(figures.filter(has_text="It is now").locator("mark")).to_have_text(now[place:].strip())


def test_a_reply_that_gave_way_says_how_often(chat: ChatScreen, starter: PaddockServer) -> None:
    replies = [{"role": "assistant", "content": "Blue.", "receipt": {"seed": 5, "prompt_tokens": 9, **more}} for more in ({"preemptions": 2}, {"preemptions": 1}, {})]
    messages = [message for reply in replies for message in ({"role": "user", "content": "Which?"}, reply)]
    chat.open(starter.ask("POST", "ui/conversations/import", {"title": "Gave way", "settings": SHORT, "messages": messages})["id"])
    receipts = chat.page.locator("details.receipt")
    for place, words in enumerate(("gave way 2 times", "gave way once", "")):
        receipts.nth(place).locator("summary").first.click()
        expect(receipts.nth(place)).to_contain_text(re.compile(f"Prompt 9 tokens{' · ' if words else ''}{words} · seed 5"))


def test_the_file_of_the_model_is_named_by_its_hash(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "Hello"), ("assistant", "Hi.")), settings=SHORT))
    chat.say("What is a LoRA?")
    shown = chat.reply.locator("details.receipt dd").filter(has_text="bytes")

    def look() -> str:
        page.reload()
        chat.reply.locator("details.receipt summary").first.click()
        expect(shown).to_be_visible()
        return shown.inner_text()

    for _ in range(20):
        if "still being computed" not in (told := look()):
            break
    assert re.search(r"[0-9a-f]{64}", told), STARTER


def test_an_interrupted_reply_says_so_and_goes_on(chat: ChatScreen, starter: PaddockServer) -> None:
    half = {"role": "assistant", "content": "Paddock is a", "status": "stopped", "error": INTERRUPTED, "receipt": {"seed": 5, "completion_tokens": 3}}
    body = {"title": "Half", "settings": SHORT, "messages": [{"role": "user", "content": "What is Paddock?"}, half]}
    chat.open(starter.ask("POST", "ui/conversations/import", body)["id"])
    expect(chat.reply.locator(".note")).to_have_text(INTERRUPTED)
    chat.press(chat.reply, "Continue this reply")
    expect(chat.reply.locator(".note")).to_have_text("")
    assert chat.done().startswith("Paddock is a")
    expect(chat.reply.locator("details.receipt summary").first).to_contain_text("continued")
    chat.reply.locator("details.receipt summary").first.click()
    expect(chat.reply.locator("dd").filter(has_text="seed 5")).to_be_visible()


def test_the_conversation_that_was_open_last_is_opened_again(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    last = starter.make_conversation((("user", "the last one"),), title="Last one")
    chat.open(last)
    chat.open()
    expect(chat.asked).to_contain_text("the last one")
    assert chat.id == last
    page.goto("about:blank")
    starter.ask("DELETE", f"ui/conversations/{last}")
    chat.open()
    expect(chat.messages).to_have_count(0)
    assert chat.id != last
