"""What every tab must do alike, and what a new sampler, setting, loader or tab costs. A new tab is one more row of `TABS`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from pydantic import SecretStr

from modules.api.schemas import ChatRequest, CompletionRequest
from modules.core.params import GenerationParams
from modules.core.settings import BY_HAND, Settings, read_settings
from modules.services.app import App, build_app
from modules.ui.app import TABS, build_page
from modules.ui.fast_import import speed_up_gradio_import
from modules.ui.settings_drawer import SettingsDrawer
from modules.ui.tabs.models import ModelsTab

speed_up_gradio_import()
SHIPPED = ("models_dir", "loras_dir", "presets_dir", "templates_dir")
TabRow = tuple[str, str, Callable[[App], None]]
EVERY_TAB = pytest.mark.parametrize("row", TABS, ids=[name for name, _, _ in TABS])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    base = tmp_path_factory.mktemp("tabs")
    return build_app(Settings(**{name: base / name for name in (*SHIPPED, "state_dir")}, model="none"))


@pytest.fixture(scope="module")
def page(app: App) -> gr.Blocks:
    return build_page(app)


def alone(row: TabRow, app: App) -> gr.Blocks:
    """A page with that tab and nothing else."""
    _, _, build = row
    with gr.Blocks(analytics_enabled=False) as blocks:
        build(app)
    return blocks


def public_names(blocks: gr.Blocks) -> list[str]:
    """Handlers that Gradio would offer to the whole network as an API."""
    return [str(handler.api_name) for handler in blocks.fns.values() if handler.api_visibility != "private"]


def nameless(blocks: gr.Blocks) -> list[str]:
    """Controls that a screen reader cannot name: without a label, and no button with a text."""
    controls = (gr.Textbox, gr.Dropdown, gr.Slider, gr.Checkbox, gr.Number, gr.Radio, gr.CheckboxGroup, gr.File, gr.Dataframe)
    shown = [block for block in blocks.blocks.values() if isinstance(block, controls) and block.visible is not False]
    found = [f"{type(block).__name__} {block.elem_id}" for block in shown if not block.label or not block.show_label]
    buttons = [block for block in blocks.blocks.values() if isinstance(block, gr.Button)]
    return found + [f"button {block.elem_id}" for block in buttons if not str(block.value or "").strip()]


# ---- tabs ----------------------------------------------------------------------------------------------------------


def test_rows_of_tabs_have_names_of_their_own() -> None:
    names, labels, builders = zip(*TABS, strict=True)
    assert len(set(names)) == len(set(labels)) == len(set(builders)) == len(TABS)
    assert all(re.fullmatch(r"[a-z][a-z-]*", name) for name in names), "it stands in the address of the page"


@EVERY_TAB
def test_a_tab_can_be_built_alone_and_again(row: TabRow, app: App) -> None:
    first, again = alone(row, app), alone(row, app)
    assert first.blocks
    assert [type(block) for block in first.blocks.values()] == [type(block) for block in again.blocks.values()]


@EVERY_TAB
def test_no_handler_of_a_tab_is_offered_to_the_network(row: TabRow, app: App) -> None:
    assert public_names(alone(row, app)) == []


@EVERY_TAB
def test_every_control_of_a_tab_has_a_name(row: TabRow, app: App) -> None:
    assert nameless(alone(row, app)) == []


@EVERY_TAB
def test_a_tab_holds_no_data_of_its_own_in_the_page(row: TabRow, app: App) -> None:
    """Big values travel with every later event: what a person has is fetched instead."""
    config = alone(row, app).get_config_file()
    assert max((len(str(component["props"].get("value", ""))) for component in config["components"]), default=0) < 4000


def test_the_page_as_a_whole_keeps_the_same_rules(page: gr.Blocks) -> None:
    assert public_names(page) == []
    assert nameless(page) == []
    ids = [block.elem_id for block in page.blocks.values() if block.elem_id]
    assert sorted(name for name in set(ids) if ids.count(name) > 1) == []


def test_the_rules_fire_on_planted_faults() -> None:
    with gr.Blocks(analytics_enabled=False) as blocks:
        box = gr.Textbox(show_label=False, elem_id="nameless")
        gr.Button(" ", elem_id="blank").click(lambda text: text, box, box)
    assert public_names(blocks) != []
    assert nameless(blocks) == ["Textbox nameless", "button blank"]


# ---- what a change costs -------------------------------------------------------------------------------------------


def of_another_value(name: str) -> Any:
    """A value of that parameter which is not its neutral one, as JSON has it."""
    field = GenerationParams.model_fields[name]
    special: dict[str, Any] = {
        "logit_bias": {"5": 1.5}, "banned_tokens": [7], "stop": ["###"], "dry_sequence_breakers": ["|"], "sampler_order": ["top_k", "temperature"],
        "seed": 11, "logprobs": 3, "mirostat_mode": 2, "ban_eos": True, "show_special_tokens": True, "deterministic": True,
        "drafts": False, "json_schema": '{"type":"object"}', "grammar": 'root ::= "a"', "regex": "a+", "choices": ["yes", "no"], "prompt_logprobs": 3, "prompt_only": True,
        "negative_prompt": "Rude.",
    }  # fmt: skip
    if name in special:
        return special[name]
    low = next((rule.ge if hasattr(rule, "ge") else rule.gt for rule in field.metadata if hasattr(rule, "ge") or hasattr(rule, "gt")), 0)
    return low + 3 if field.annotation is int else low + 0.5


def is_shown(name: str) -> bool:
    """Whether a parameter is for people: those that only say what is reported are for programs."""
    hints = GenerationParams.model_fields[name].json_schema_extra
    return not (isinstance(hints, dict) and hints.get("hidden"))


@pytest.mark.parametrize("name", list(GenerationParams.model_fields))
def test_a_parameter_is_a_key_of_presets_a_field_of_the_api_and_a_control(name: str, app: App) -> None:
    value = of_another_value(name)
    changed = GenerationParams.model_validate({name: value})
    assert list(changed.changed()) == [name]
    app.presets.save("One value", changed, overwrite=True)
    assert app.presets.read("One value") == changed
    if name != "logprobs":  # OpenAI has two other fields for it
        chat = ChatRequest(messages=[{"role": "user", "content": "Hi"}], **{name: value})
        assert name in chat.given() or chat.model_dump()[name] == value
        plain = CompletionRequest(prompt="Hi", **{name: value})
        assert name in plain.given() or plain.model_dump()[name] == value
    assert is_shown(name) == (name in {field.name for field in drawer_of(app)._form.fields})


def drawer_of(app: App) -> SettingsDrawer:
    drawer = SettingsDrawer(app)
    assert len(drawer._form.fields) >= sum(map(is_shown, GenerationParams.model_fields))
    return drawer


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name != "config" and name not in BY_HAND])
def test_a_setting_is_an_environment_name_a_key_of_the_file_and_a_row_of_the_documents(name: str, tmp_path: Path, root: Path) -> None:
    special = {"host": "127.0.0.9", "options": "slots=3", "root_path": "/llm", "allowed_hosts": "a,b", "allowed_origins": "https://a.b", "trusted_proxy": "10.0.0.2"}
    field = Settings.model_fields[name]
    text = special.get(name) or {bool: str(not field.default).lower(), int: "7", float: "9.5", Path: str(tmp_path / "x")}.get(field.annotation, "text")
    environ = {"PADDOCK_STATE_DIR": str(tmp_path), f"PADDOCK_{name.upper()}": text}
    settings, given = read_settings([], environ)
    assert name in given
    value = getattr(settings, name)
    assert value != field.get_default(call_default_factory=True)
    if name != "state_dir":
        stored = value.get_secret_value() if isinstance(value, SecretStr) else settings.model_dump(mode="json")[name]
        (tmp_path / "settings.yaml").write_text(f"{name.replace('_', '-')}: {stored if not isinstance(stored, str) else repr(stored)}\n")
        assert getattr(read_settings([], {"PADDOCK_STATE_DIR": str(tmp_path)})[0], name) == value
    assert f"`PADDOCK_{name.upper()}`" in (root / "docs" / "settings.md").read_text(encoding="utf-8")


def test_every_loader_has_its_form_on_the_models_page(app: App) -> None:
    tab = ModelsTab(app)
    with gr.Blocks(analytics_enabled=False):
        tab.build()
    assert [value for _, value in tab.loader.choices] == [spec.name for spec in app.models.loaders()]
    for spec in app.models.loaders():
        form = tab._forms[spec.name]
        assert form.model is spec.options
        assert len(form.components) == len(form.fields) > 0
