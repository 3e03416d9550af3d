"""Which preset a chat begins with: the one last chosen with the loaded model, else the default."""

from __future__ import annotations

import pytest

from modules.core.errors import NotFound
from modules.core.params import GenerationParams
from modules.services.preset_choices import OfModel
from tests.services.conftest import ONE, TWO
from tests.services.model_steps import OPTIONS, StartApp

ANN = "ann"


async def test_a_chat_begins_with_the_preset_last_chosen_with_its_model(start_app: StartApp) -> None:
    app = start_app()
    for name in ("Balanced", "Mine", "Other"):
        app.presets.save(name, GenerationParams(temperature=0.3))
    choices = app.preset_choices
    choices.remember("Mine")
    assert choices.of_model() is None, "no model is loaded"
    await app.models.load(ONE, "", OPTIONS)
    assert choices.of_model() is None
    choices.remember("Other")
    assert choices.of_model() == OfModel(ONE, "Other")
    used = await app.conversations.create(ANN, {"preset": "Other", "params": {"top_k": 3}, "system_prompt": "Rhyme."})
    await app.conversations.append(ANN, used, None, "user", "Hi")
    begun = (await app.conversations.read(ANN, await app.beginnings.begin(ANN))).settings
    assert (begun.preset, begun.params) == ("Other", {"top_k": 3}), "changes to the same preset come along"
    choices.remember("Mine")
    begun = (await app.conversations.read(ANN, await app.beginnings.begin(ANN))).settings
    assert (begun.preset, begun.params, begun.system_prompt) == ("Mine", {}, "Rhyme.")
    await app.models.unload(ONE)
    await app.models.load(TWO, "", OPTIONS)
    assert choices.of_model() is None, "each model has its own"
    choices.remember("")
    assert choices.of_model() == OfModel(TWO, "")
    choices.remember("None such")
    assert choices.of_model() == OfModel(TWO, "")
    again = start_app()
    await again.models.load(ONE, "", OPTIONS)
    assert again.preset_choices.of_model() == OfModel(ONE, "Mine")
    again.presets.delete("Mine")
    assert again.preset_choices.of_model() is None


async def test_the_default_preset_is_chosen_and_survives(start_app: StartApp) -> None:
    app = start_app()
    assert app.preset_choices.default() == "Balanced"
    with pytest.raises(NotFound, match="None such"):
        app.preset_choices.choose_default("None such")
    app.presets.save("Mine", GenerationParams(top_k=3))
    app.preset_choices.choose_default("Mine")
    assert start_app().preset_choices.default() == "Mine"
    assert (await app.conversations.read(ANN, await app.beginnings.begin(ANN))).settings.preset == "Mine"
    app.preset_choices.choose_default("")
    assert app.preset_choices.default() == ""
    app.preset_choices.choose_default("Mine")
    app.presets.delete("Mine")
    assert app.preset_choices.default() == "Balanced"
