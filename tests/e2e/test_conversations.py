"""The sidebar: several conversations, rename, pin, search, delete, export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer, wait_for


def test_new_rename_pin_and_open(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "about meadows"),), title="Meadows")
    chat.open()
    page.get_by_role("button", name="New chat").click()
    chat.say("hello there, friend")
    chat.press_row("hello there, friend", "Rename")
    name = page.get_by_role("textbox", name="Name of the conversation")
    name.fill("A friend")
    name.press("Enter")
    expect(chat.row("A friend")).to_be_visible()
    expect(page).to_have_title("A friend · Paddock")
    chat.press_row("Meadows", "Pin")
    expect(chat.sidebar.get_by_role("heading").first).to_have_text("Pinned")
    expect(chat.sidebar.locator("li").first).to_contain_text("Meadows")
    chat.row("Meadows").get_by_role("button", name="Meadows").click()
    expect(chat.asked).to_contain_text("about meadows")
    expect(chat.row("Meadows")).to_have_attribute("aria-current", "page")
    page.reload()
    expect(chat.asked).to_contain_text("about meadows")
    chat.press_row("Meadows", "Unpin")


def test_search_finds_words_in_messages(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "the velocipede of my aunt"),), title="Vehicles")
    chat.open()
    search = page.get_by_role("searchbox", name="Search conversations")
    search.fill("velocipede")
    expect(chat.sidebar.locator("li")).to_have_count(1)
    expect(chat.row("Vehicles")).to_be_visible()
    search.fill("no such words anywhere")
    expect(page.get_by_text("Nothing found.")).to_be_visible()
    search.fill("")
    wait_for(lambda: chat.sidebar.locator("li").count() > 1, "the whole list is back")


def test_a_deleted_conversation_comes_back_with_undo(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "something else"),), title="Another one")
    doomed = starter.make_conversation((("user", "not for long"),), title="Doomed")
    chat.open(doomed)
    chat.press_row("Doomed", "Delete")
    expect(chat.row("Doomed")).to_have_count(0)
    expect(chat.asked.filter(has_text="not for long")).to_have_count(0)
    assert doomed not in listed(starter)
    page.get_by_role("button", name="Undo").click()
    expect(chat.row("Doomed")).to_have_attribute("aria-current", "page")
    expect(chat.asked).to_contain_text("not for long")
    assert doomed in listed(starter)


def test_undo_stays_while_somebody_points_at_it(new_context: Callable[..., BrowserContext], starter: PaddockServer) -> None:
    page = new_context().new_page()
    page.clock.install()
    chat = ChatScreen(page, starter).open(starter.make_conversation((("user", "not for long"),), title="Thought about"))
    undo = page.get_by_role("button", name="Undo")
    chat.press_row("Thought about", "Delete")
    expect(undo).to_be_visible()  # a page whose clock is moved before would look for what it just deleted
    page.clock.fast_forward(8000)
    undo.hover()
    page.clock.fast_forward(60_000)
    expect(undo).to_be_visible()
    page.mouse.move(5, 5)
    page.clock.fast_forward(2000)
    expect(undo).to_have_count(0)


def test_an_open_conversation_that_takes_long_to_be_deleted_is_not_looked_for_meanwhile(
    chat: ChatScreen, page: Page, starter: PaddockServer
) -> None:
    chat.open(starter.make_conversation((("user", "gone soon"),), title="Slowly deleted"))
    asked: list[str] = []

    def slowly(route: Route) -> None:
        if route.request.method != "DELETE":
            route.fallback()
            return
        answer = route.fetch()
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(3000)
        route.fulfill(response=answer)

    gone = chat.id
    page.route(f"**/ui/conversations/{gone}", slowly)
    chat.press_row("Slowly deleted", "Delete")
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    assert [url for url in asked if gone in url] == []
    expect(page.get_by_text("gone soon")).to_have_count(0)


def test_a_conversation_that_could_not_be_deleted_is_followed_again(chat: ChatScreen, page: Page, starter: PaddockServer, watch: ConsoleWatch) -> None:
    chat.open(starter.make_conversation((("user", "stays"),), title="Not deleted"))
    watch.allow("status of 503")
    page.route(f"**/ui/conversations/{chat.id}", lambda route: route.fulfill(status=503, json={"error": {"message": "Not now."}}))
    chat.press_row("Not deleted", "Delete")
    expect(page.locator(".toast")).to_contain_text("Not now.")
    page.unroute(f"**/ui/conversations/{chat.id}")
    chat.say("Hello")


def listed(server: PaddockServer) -> list[str]:
    return [row["id"] for row in server.ask("GET", "ui/conversations?limit=1000")["conversations"]]


def test_a_deleted_message_comes_back_with_undo(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation((("user", "first"), ("assistant", "The second."), ("user", "third")), title="Cut short"))
    chat.press(chat.replies.first, "Delete this and what follows")
    page.get_by_role("group", name="Delete this message and what follows?").get_by_role("button", name="Delete").click()
    expect(chat.messages).to_have_count(1)
    page.get_by_role("button", name="Undo").click()
    expect(chat.messages).to_have_count(3)
    expect(chat.asked.last).to_contain_text("third")


def test_what_was_deleted_is_listed_restored_and_deleted_for_good(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.ask("DELETE", "ui/bin")
    kept, gone = (starter.make_conversation((("user", "text"),), title=title) for title in ("Wanted again", "Never again"))
    for conversation_id in (kept, gone):
        starter.ask("DELETE", f"ui/conversations/{conversation_id}")
    chat.open()
    page.get_by_role("button", name="Deleted conversations and messages").click()
    view = page.get_by_role("region", name="Deleted")
    expect(view.locator("li")).to_have_count(2)
    expect(view.locator("li").first).to_contain_text("Never again")
    expect(view.locator("li").first).to_contain_text("1 message · 30 days left")
    view.get_by_role("button", name="Delete Never again for good").click()
    view.get_by_role("button", name="Delete for good", exact=True).click()
    expect(view.locator("li")).to_have_count(1)
    view.get_by_role("button", name="Restore Wanted again").click()
    expect(view.get_by_text("Nothing is deleted.")).to_be_visible()
    expect(chat.asked).to_contain_text("text")
    view.get_by_role("button", name="Back to the conversations").click()
    expect(chat.row("Wanted again")).to_be_visible()
    expect(chat.row("Never again")).to_have_count(0)


def test_tags_are_set_and_narrow_the_list(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    for title in ("Letter to the bank", "Plum cake"):
        starter.make_conversation((("user", "text"),), title=title)
    chat.open()
    chat.press_row("Letter to the bank", "Tags")
    field = page.get_by_role("combobox", name="Tags, with commas between them")
    field.fill("money, Letters")
    field.press("Enter")
    expect(chat.row("Letter to the bank").locator(".row-tag")).to_have_text(["money", "Letters"])
    page.get_by_role("group", name="Tags").get_by_role("button", name="money").click()
    expect(chat.sidebar.locator("li")).to_have_count(1)
    expect(page.get_by_role("group", name="Tags").get_by_role("button", name="money")).to_have_attribute("aria-pressed", "true")
    chat.press_row("Letter to the bank", "Tags")
    field.fill("")
    field.press("Enter")
    expect(page.get_by_role("group", name="Tags")).to_have_count(0)
    expect(chat.row("Plum cake")).to_be_visible()


def test_a_search_shows_the_words_found(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    starter.make_conversation((("user", "We never saw the zeppelin over the lake."),), title="Airships")
    chat.open()
    page.get_by_role("searchbox", name="Search conversations").fill("zeppel")
    expect(chat.row("Airships").locator(".snippet")).to_have_text("We never saw the zeppelin over the lake.")
    expect(chat.row("Airships").locator("mark")).to_have_text("zeppel")
    chat.row("Airships").locator(".snippet").click()
    expect(chat.asked).to_contain_text("zeppelin")


def test_a_long_list_is_read_while_it_is_scrolled(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    oldest = starter.make_conversation((("user", "the very first"),), title="The oldest of all")
    made = [starter.make_conversation((("user", "text"),), title=f"Scrolled {number}") for number in range(100)]
    try:
        chat.open(oldest)
        expect(chat.row("Scrolled 99")).to_be_visible()
        expect(chat.row("The oldest of all")).to_have_attribute("aria-current", "page")  # far down, and shown all the same
        assert chat.sidebar.locator("li").count() < 90
        wait_for(lambda: scrolled_to_the_end(page) and chat.row("Scrolled 0").filter(visible=True).count() > 0, "the list came to its end")
        assert chat.sidebar.locator("li[data-id]").evaluate_all("rows => new Set(rows.map(row => row.dataset.id)).size === rows.length")
        expect(chat.row("The oldest of all")).to_have_count(1)
    finally:
        for conversation_id in made:
            starter.ask("DELETE", f"ui/conversations/{conversation_id}")
        starter.ask("DELETE", "ui/bin")


def test_back_and_forward_lead_from_conversation_to_conversation(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    first, second = (starter.make_conversation((("user", f"about {what}"),), title=f"All about {what}") for what in ("rain", "snow"))
    chat.open(first)
    chat.row("All about snow").get_by_role("button", name="All about snow").click()
    expect(chat.asked).to_contain_text("about snow")
    page.go_back()
    expect(chat.asked).to_contain_text("about rain")
    expect(chat.row("All about rain")).to_have_attribute("aria-current", "page")
    page.go_forward()
    expect(chat.asked).to_contain_text("about snow")
    assert chat.id == second


def scrolled_to_the_end(page: Page) -> bool:
    page.get_by_role("navigation", name="Conversations").evaluate("list => { list.scrollTop = list.scrollHeight; }")
    return True


def test_export_saves_the_conversation_as_a_file(chat: ChatScreen, page: Page, starter: PaddockServer, tmp_path: Path) -> None:
    chat.open(starter.make_conversation((("user", "keep me"), ("assistant", "Kept.")), title="Kept in a file"))
    with page.expect_download() as waiting:
        chat.press_row("Kept in a file", "Export")
        page.get_by_role("menuitem", name="Export as Paddock (JSON)").click()
    file = tmp_path / "conversation.json"
    waiting.value.save_as(file)
    assert [message["content"] for message in json.loads(file.read_text(encoding="utf-8"))["messages"]] == ["keep me", "Kept."]
