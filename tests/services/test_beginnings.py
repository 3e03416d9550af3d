"""What a new conversation begins with: as the last one that was used, or with the defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from modules.core.errors import InvalidRequest
from modules.core.params import GenerationParams
from modules.core.settings import Settings
from modules.services.app import App, build_app
from modules.services.conversation_settings import ConversationSettings
from tests.services.conftest import FOLDERS

ANN = "ann"


@pytest_asyncio.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    app = build_app(Settings(models_dir=tmp_path / "models", model="none", **{name: tmp_path / name for name in FOLDERS}))
    yield app
    await app.close()


async def settings_of(app: App, conversation_id: str) -> ConversationSettings:
    return (await app.conversations.read(ANN, conversation_id)).settings


async def test_a_new_conversation_has_the_settings_of_the_last_one_used(app: App) -> None:
    app.presets.save("Mine", GenerationParams(temperature=0.3))
    profile = await app.casting.profiles.save({"name": "Bo"})
    chosen = {"preset": "Mine", "params": {"max_tokens": 7}, "system_prompt": "Rhyme.", "profile": profile, "overflow": "refuse", "summary": "old", "summary_until": "x"}
    used = await app.conversations.create(ANN, chosen)
    await app.conversations.append(ANN, used, None, "user", "Hi")
    other = await app.conversations.create("bob", {"system_prompt": "Bob's."})
    await app.conversations.append("bob", other, None, "user", "Hi")
    begun = await app.beginnings.begin(ANN)
    settings = await settings_of(app, begun)
    assert (settings.preset, settings.params, settings.system_prompt, settings.profile, settings.overflow) == ("Mine", {"max_tokens": 7}, "Rhyme.", profile, "refuse")
    assert (settings.summary, settings.summary_until) == ("", ""), "what was said stays where it was said"
    assert await app.beginnings.begin(ANN) == begun, "an untouched one is taken again"
    await app.conversations.update_settings(ANN, begun, {"system_prompt": "Typed with care."})
    assert await app.beginnings.begin(ANN) == begun, "its settings are the newest"
    assert (await settings_of(app, begun)).system_prompt == "Typed with care."
    await app.conversations.append(ANN, used, None, "user", "Again")
    third = await app.beginnings.begin(ANN)
    assert (await settings_of(app, third)).system_prompt == "Rhyme."
    assert (await settings_of(app, begun)).system_prompt == "Typed with care.", "nothing that was typed is lost"


async def test_a_character_comes_along_and_greets(app: App) -> None:
    name = await app.casting.characters.save({"name": "Ada", "first_mes": "Good day, {{user}}.", "alternate_greetings": ["It is {{char}}."]})
    used = await app.conversations.create(ANN, {"character": name})
    await app.conversations.append(ANN, used, None, "user", "Hi")
    begun = await app.beginnings.begin(ANN)
    messages = (await app.conversations.read(ANN, begun)).messages
    assert [(message.content, message.speaker, message.version_count) for message in messages] == [("Good day, User.", "Ada", 2)]
    assert await app.beginnings.begin(ANN) == begun
    await app.conversations.append(ANN, begun, messages[0].id, "user", "Hello")
    assert await app.beginnings.begin(ANN) != begun


async def test_what_is_gone_stays_behind(app: App) -> None:
    app.presets.save("Mine", GenerationParams(temperature=0.3))
    name = await app.casting.characters.save({"name": "Ada"})
    used = await app.conversations.create(ANN, {"character": name, "preset": "Mine", "template": "None such", "system_prompt": "Rhyme."})
    await app.conversations.append(ANN, used, None, "user", "Hi")
    app.presets.delete("Mine")
    await app.casting.characters.delete(name)
    settings = await settings_of(app, await app.beginnings.begin(ANN))
    assert settings == ConversationSettings(system_prompt="Rhyme.")


async def test_the_person_can_choose_the_defaults_and_that_is_remembered(app: App, tmp_path: Path) -> None:
    used = await app.conversations.create(ANN, {"system_prompt": "Rhyme."})
    await app.conversations.append(ANN, used, None, "user", "Hi")
    copied = await app.beginnings.begin(ANN)
    assert not app.chat_preferences.change(ANN, {"begin_as_last": False}).begin_as_last
    fresh = await app.beginnings.begin(ANN)
    assert fresh != copied, "the untouched one would begin in another way"
    assert await settings_of(app, fresh) == ConversationSettings()
    again = build_app(Settings(models_dir=tmp_path / "models", model="none", **{name: tmp_path / name for name in FOLDERS}))
    assert not again.chat_preferences.read(ANN).begin_as_last
    assert again.chat_preferences.read("bob").begin_as_last
    await again.close()
    for bad in ({"begin_as_last": "perhaps"}, {"colour": True}):
        with pytest.raises(InvalidRequest):
            app.chat_preferences.change(ANN, bad)
    (tmp_path / "state_dir" / "chat-preferences.yaml").write_text("{broken", encoding="utf-8")
    assert app.chat_preferences.read(ANN).begin_as_last
