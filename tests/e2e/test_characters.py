"""Characters and the other ways to write, as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from modules.prompts.character_card import CardText, new_card, png_file, read_card
from modules.prompts.png_text import plain_picture
from tests.e2e.conftest import PHONE
from tests.e2e.console_watch import ConsoleWatch
from tests.e2e.screens import ChatScreen
from tests.paddock_server import PaddockServer

CARD = new_card(CardText(name="Captain Reed", description="{{char}} sails.", first_mes="Ahoy, {{user}}!", alternate_greetings=["All hands, {{user}}."], tags=["sea"]))
TALK = (("user", "What is a paddock?"), ("assistant", "A small field."))


class Cast:
    """The dialog in which one chooses who speaks."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.dialog = page.get_by_role("dialog")
        self.chip = page.locator(".cast-chip")
        self.news = self.dialog.get_by_role("status")

    def open(self) -> Cast:
        self.chip.click()
        expect(self.dialog.get_by_role("heading", name="Who speaks")).to_be_visible()
        expect(self.dialog.get_by_role("list", name="Character")).to_be_visible()
        return self

    def row(self, name: str) -> Locator:
        return self.dialog.get_by_role("listitem").filter(has_text=name)

    def pick(self, name: str) -> None:
        self.row(name).locator(".cast-row").click()
        expect(self.dialog).to_have_count(0)

    def press(self, name: str) -> None:
        self.dialog.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def cast(page: Page) -> Cast:
    return Cast(page)


def test_the_dialogue_is_told_as_one_instruction(chat: ChatScreen, cast: Cast, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(TALK, title="Instructed"))
    cast.open()
    command = cast.dialog.get_by_role("textbox", name="Command")
    expect(command).to_be_hidden()
    cast.dialog.get_by_role("radio", name="As one instruction").check()
    command.fill("Go on as {{char}}:\n{{prompt}}")
    command.blur()
    expect(cast.dialog.get_by_text("Saved", exact=True)).to_be_visible()
    cast.press("Close")
    chat.say("Who are you?")
    settings = starter.conversation(chat.id)["settings"]
    assert (settings["mode"], settings["command"]) == ("chat-instruct", "Go on as {{char}}:\n{{prompt}}")
    chat.reply.locator("details.receipt > summary").click()
    chat.reply.get_by_role("button", name="What the model saw").click()
    expect(page.get_by_role("dialog")).to_contain_text("Go on as Assistant:")
    expect(page.get_by_role("dialog")).to_contain_text("User: Who are you?")


def menu(page: Page, item: str) -> None:
    page.locator(".composer-menu > summary").click()
    page.locator(".composer-menu").get_by_role("button", name=item).click()


def test_a_character_is_brought_in_chosen_and_greets(chat: ChatScreen, cast: Cast, page: Page, tmp_path: Path) -> None:
    chat.open()
    cast.open()
    file = tmp_path / "reed.png"
    file.write_bytes(png_file(CARD, plain_picture(60, 90, (40, 90, 160), (10, 20, 40))))
    cast.dialog.get_by_label("File of a character").set_input_files(file)
    expect(cast.news).to_have_text("Captain Reed was imported.")
    expect(cast.row("Captain Reed").locator("img")).to_be_visible()
    cast.pick("Captain Reed")
    expect(chat.reply.locator(".body")).to_have_text("Ahoy, User!")
    expect(chat.reply.locator(".speaker")).to_contain_text("Captain Reed")
    expect(cast.chip).to_contain_text("Captain Reed")
    chat.press(chat.reply, "Later version")
    expect(chat.reply.locator(".body")).to_have_text("All hands, User.")
    assert chat.say("Hello")
    expect(chat.reply.locator(".speaker")).to_contain_text("Captain Reed")
    page.reload()
    chat.ready()
    expect(chat.replies.locator(".speaker")).to_have_count(2)
    page.set_viewport_size({"width": 1190, "height": 800})
    page.keyboard.press("ControlOrMeta+s")  # the settings leave less room
    expect(page.get_by_role("textbox", name="System prompt")).to_be_visible()
    box, button = page.locator(".composer-box").bounding_box(), chat.send_button.bounding_box()
    assert box and button and button["x"] + button["width"] <= box["x"] + box["width"]
    page.get_by_role("button", name="Done", exact=True).click()
    cast.open()
    with page.expect_download() as download:
        cast.row("Captain Reed").locator("summary").click()
        cast.row("Captain Reed").get_by_text("Picture with the card (PNG)").click()
    assert read_card(download.value.path().read_bytes())[0]["data"] == {**CARD["data"], "group_only_greetings": []}
    cast.press("Delete Captain Reed")
    expect(cast.news).to_contain_text("Captain Reed is in the bin for 30 days.")
    expect(cast.row("Captain Reed")).to_have_count(0)
    cast.press("Undo")
    expect(cast.row("Captain Reed").locator("img")).to_be_visible()
    cast.press("Delete Captain Reed")
    expect(cast.row("Captain Reed")).to_have_count(0)


def test_a_character_and_a_profile_are_written_in_the_dialog(chat: ChatScreen, cast: Cast, page: Page, starter: PaddockServer) -> None:
    chat.open()
    cast.open()
    cast.press("New character")
    cast.dialog.get_by_label("Name", exact=True).fill("Ada")
    cast.dialog.get_by_label("Persona", exact=True).fill("{{char}} builds engines.")
    cast.dialog.get_by_label("Greeting", exact=True).fill("Good day, {{user}}.")
    cast.dialog.get_by_label("Persona", exact=True).hover()
    chat.page.mouse.down()  # a selection that is drawn out of the dialog does not close it
    chat.page.mouse.move(3, 3)
    chat.page.mouse.up()
    cast.dialog.get_by_role("button", name="Add one").click()
    cast.dialog.get_by_label("Other greetings, number 1").fill("Again, {{user}}?")
    cast.dialog.get_by_label("Tags", exact=True).fill("engines, 1843")
    cast.press("Save")
    expect(cast.news).to_have_text("Ada was saved.")
    cast.press("New profile")
    cast.dialog.get_by_label("Name", exact=True).fill("Robin")
    cast.press("Save")
    expect(cast.news).to_have_text("Robin was saved.")
    cast.pick("Robin")
    cast.open().pick("Ada")
    expect(chat.reply.locator(".body")).to_have_text("Good day, Robin.")
    chat.say("Hi")
    expect(chat.asked.locator(".speaker")).to_contain_text("Robin")
    stored = starter.ask("GET", "ui/characters/Ada")["values"]
    assert (stored["alternate_greetings"], stored["tags"]) == (["Again, {{user}}?"], ["engines", "1843"])
    cast.open()
    cast.press("Edit Ada")
    expect(cast.dialog.get_by_label("Other greetings, number 1")).to_have_value("Again, {{user}}?")
    cast.dialog.get_by_label("Name", exact=True).fill("Ada L.")
    cast.press("Save")
    expect(cast.row("Ada L.")).to_be_visible()
    before = chat.id
    cast.press("New chat with Ada L.")
    expect(chat.messages).to_have_count(1)
    expect(chat.reply.locator(".speaker")).to_contain_text("Ada L.")
    assert chat.id != before
    for kind, name in (("characters", "Ada"), ("profiles", "Robin")):
        starter.ask("DELETE", f"ui/{kind}/{name}")


def test_what_is_typed_into_the_editor_stays_until_it_is_saved(chat: ChatScreen, cast: Cast, page: Page, starter: PaddockServer, tmp_path: Path) -> None:
    chat.open()
    cast.open()
    cast.press("New character")
    name, persona = cast.dialog.get_by_label("Name", exact=True), cast.dialog.get_by_label("Persona", exact=True)
    name.fill("Mara")
    persona.fill("{{char}} paints.")
    cast.dialog.get_by_role("button", name="Add one").click()
    cast.dialog.get_by_label("Other greetings, number 1").fill("Again?")
    file = tmp_path / "mara.png"
    file.write_bytes(plain_picture(60, 90, (40, 90, 160), (10, 20, 40)))
    cast.dialog.get_by_label("Picture file").set_input_files(file)
    picture = cast.dialog.locator(".cast-picture img")
    expect(picture).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("What you typed is kept; New character goes on with it.")).to_be_visible()
    page.reload()
    chat.ready()
    cast.open()
    cast.press("New character")
    expect(cast.dialog.get_by_role("note")).to_contain_text("not saved yet")
    expect(name).to_have_value("Mara")
    expect(cast.dialog.get_by_label("Other greetings, number 1")).to_have_value("Again?")
    expect(picture).to_be_visible()
    cast.press("Save")
    expect(cast.news).to_have_text("Mara was saved.")
    expect(cast.row("Mara").locator("img")).to_be_visible()
    cast.press("Edit Mara")
    persona.fill("{{char}} sings.")
    cast.press("Cancel")
    expect(cast.news).to_have_text("What you typed is kept; Edit goes on with it.")
    expect(cast.row("Mara")).to_contain_text("Not saved yet")
    cast.press("Edit Mara")
    expect(persona).to_have_value("{{char}} sings.")
    cast.press("Forget it")
    expect(persona).to_have_value("{{char}} paints.")
    expect(cast.dialog.get_by_role("note")).to_have_count(0)
    cast.press("Cancel")
    expect(cast.row("Mara")).not_to_contain_text("Not saved yet")
    starter.ask("DELETE", "ui/characters/Mara")


def test_each_tab_keeps_what_was_typed_into_it(chat: ChatScreen, cast: Cast, context: BrowserContext, starter: PaddockServer) -> None:
    starter.ask("POST", "ui/characters", {"name": "", "values": {"name": "Mara", "description": "{{char}} paints."}})
    tabs = []
    for words in ("sings", "dances"):
        page = chat.page if not tabs else context.new_page()
        screen = ChatScreen(page, starter).open()
        mine = Cast(page).open()
        mine.press("Edit Mara")
        mine.dialog.get_by_label("Persona", exact=True).fill(f"{{{{char}}}} {words}.")
        tabs.append((screen, mine))
    (first, sings), (second, dances) = tabs
    for screen, mine, words in ((first, sings, "{{char}} sings."), (second, dances, "{{char}} dances.")):
        screen.page.reload()
        screen.ready()
        mine.open()
        mine.press("Edit Mara")
        expect(mine.dialog.get_by_label("Persona", exact=True)).to_have_value(words)
    dances.press("Save")
    expect(dances.news).to_have_text("Mara was saved.")
    expect(dances.row("Mara")).to_contain_text("Not saved yet")  # what the other tab has
    dances.press("Edit Mara")  # goes on with it
    expect(dances.dialog.get_by_label("Persona", exact=True)).to_have_value("{{char}} sings.")
    dances.press("Save")
    expect(dances.row("Mara")).to_contain_text("Not saved yet")  # the other tab may have typed more by now
    first.page.close()
    dances.press("Edit Mara")
    dances.press("Save")
    expect(dances.row("Mara")).not_to_contain_text("Not saved yet")
    starter.ask("DELETE", "ui/characters/Mara")


def test_what_is_no_card_is_refused_in_the_dialog(chat: ChatScreen, cast: Cast, tmp_path: Path, watch: ConsoleWatch) -> None:
    watch.allow("400")
    chat.open()
    cast.open()
    file = tmp_path / "no.json"
    file.write_text(json.dumps({"words": 1}), encoding="utf-8")
    cast.dialog.get_by_label("File of a character").set_input_files(file)
    expect(cast.news).to_have_text("This file is no character: it has no name.")


def test_turns_by_hand_and_a_reply_with_given_words(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(TALK, title="By hand"))
    chat.box.fill("It begins to rain.")
    menu(page, "Tell as narrator")
    expect(chat.asked.last.locator(".speaker")).to_have_text("NNarrator")
    expect(chat.box).to_have_value("")
    chat.box.fill("Then the horses come in.")
    menu(page, "Insert as a reply")
    expect(chat.reply.locator(".body")).to_have_text("Then the horses come in.")
    chat.box.fill("All of them?")
    page.get_by_label("Files", exact=True).set_input_files({"name": "horses.txt", "mimeType": "text/plain", "buffer": b"Three horses."})
    expect(page.locator(".composer").get_by_role("list", name="Attached files")).to_contain_text("13 characters")
    menu(page, "Send without a reply")
    expect(chat.log.get_by_role("list", name="Attached files")).to_contain_text("horses.txt")
    expect(page.locator(".composer").get_by_role("list", name="Attached files")).to_have_count(0)
    expect(chat.asked.last.locator(".body")).to_have_text("All of them?")
    expect(chat.messages).to_have_count(5)
    menu(page, "Start the reply with…")
    page.get_by_label("The reply begins with").fill("Every single")
    page.get_by_label("The reply begins with").press("Enter")
    expect(chat.messages).to_have_count(6)
    assert chat.done().startswith("Every single")
    expect(page.get_by_label("The reply begins with")).to_have_count(0)
    menu(page, "Take back my last message")
    expect(chat.box).to_have_value("All of them?")
    waiting = page.locator(".composer").get_by_role("list", name="Attached files")
    expect(waiting).to_contain_text("horses.txt")
    expect(chat.messages).to_have_count(4)
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(chat.messages).to_have_count(6)
    expect(chat.log.get_by_role("list", name="Attached files")).to_contain_text("horses.txt")
    expect(chat.box).to_have_value("")
    expect(waiting).to_have_count(0)
    page.reload()
    expect(chat.messages).to_have_count(6)
    expect(waiting).to_have_count(0)


def test_the_model_writes_the_person_s_turn_into_the_box(chat: ChatScreen, page: Page, starter: PaddockServer) -> None:
    chat.open(starter.make_conversation(TALK, title="Mine"))
    chat.box.fill("How do I")
    page.locator(".composer-menu > summary").click()
    page.locator(".composer-menu").get_by_role("button", name="Write my turn").click()
    expect(page.get_by_text("Your turn is being written…")).to_have_count(0)
    page.set_viewport_size(PHONE)
    place = chat.send_button.bounding_box()
    assert place is not None
    assert place["x"] + place["width"] < PHONE["width"], "the button is out of sight on a phone"
    written = chat.box.input_value()
    assert written.startswith("How do I")
    assert len(written) > len("How do I")
    expect(chat.messages).to_have_count(2)
