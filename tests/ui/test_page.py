"""The page: built from the services, safe in its templates, without anything from elsewhere."""

import json
import re

import gradio as gr
import pytest

from modules.core.errors import InvalidRequest, LoadFailed
from modules.core.params import GenerationParams
from modules.core.settings import Settings
from modules.services.app import build_app
from modules.ui import notices, page_files, page_start
from modules.ui.app import TABS, ViewRendering, build_page, page_options
from modules.ui.page_files import ASSETS
from modules.ui.settings_drawer import SettingsDrawer, _shown
from modules.ui.views.frame import View

VIEW_EVENTS = {"collect", "show", "typed", "draw", "input", "pick", "load_model", "unload_model", "reset", "import_preset"}


@pytest.fixture
def app(tmp_path):
    folders = {name: tmp_path / name for name in ("models_dir", "loras_dir", "presets_dir", "templates_dir", "state_dir")}
    app = build_app(Settings(**folders, model="none"))
    app.presets.save("Balanced", GenerationParams(temperature=0.8, top_p=0.95))
    return app


@pytest.fixture
def page(app):
    return build_page(app)


@pytest.fixture
def drawer(app):
    drawer = SettingsDrawer(app)
    with gr.Blocks():
        drawer.build()
    return drawer


def event(data):
    return gr.EventData(None, data)


def test_every_row_of_tabs_is_a_tab(page):
    labels = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert labels == [label for _, label, _ in TABS]


def test_file_paths_are_checked_in_a_mounted_page(page):
    assert page.has_launched


def test_no_data_passes_through_a_template(page):
    views = [block for block in page.blocks.values() if isinstance(block, View)]
    assert len(views) >= 5
    for view in views:
        assert "${" not in view.html_template and "{{" not in view.html_template
        assert (ASSETS / f"{view.module}.js").is_file()


def test_the_events_of_the_views_are_quoted_in_their_script(page):
    for view in (block for block in page.blocks.values() if isinstance(block, View)):
        for name in view.event_names:
            assert f"'{name}'" in view.js_on_load
            assert name in VIEW_EVENTS


def test_what_runs_before_gradio_stands_before_it():
    html = b'<head><meta charset="utf-8"><base href="./" /><meta property="og:title"\n content="Gradio" /><script>"<meta name="description">"</script><script type="module" src="./assets/index.js"></script><p>\\1 <base href="./" /></p>'
    sent = ViewRendering().whole_page(html)
    assert sent.count(b"frames.js") == 1 and sent.index(b"<base") < sent.index(b"frames.js") < sent.index(b"index.js")
    assert sent.replace(page_start.top_of_page().encode(), b"") == html.replace(b'<meta property="og:title"\n content="Gradio" />', b"")


def test_nothing_is_fetched_from_elsewhere():
    for path in ASSETS.iterdir():
        for address in re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text(encoding="utf-8")):
            assert address.startswith("http://www.w3.org"), f"{path.name} names {address}"
    options = page_options()
    assert "//" not in options["head"]
    assert not any("googleapis" in sheet for sheet in options["theme"]._stylesheets)


def test_html_enters_the_page_at_one_place_only():
    places = [path.name for path in ASSETS.glob("*.js") for line in path.read_text(encoding="utf-8").splitlines()
              if re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", line)]  # fmt: skip
    assert places == ["dom.js"]


def test_assets_are_small():
    for path in ASSETS.iterdir():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name


def test_options_are_known_to_gradio():
    import inspect

    assert set(page_options()) <= set(inspect.signature(gr.mount_gradio_app).parameters)


# ---- the settings drawer


def plain_values(drawer, updates):
    """What the components of the settings hold after these updates; others follow."""
    own = updates[: 4 + len(drawer._form.fields)]
    return [value.get("value") if isinstance(value, dict) else value for value in own]


def split(answer):
    """Of what `show` answers: the problem, and the components that are read."""
    _, _, _, problem, _, *rest = answer
    return problem, rest


async def test_shown_settings_come_back_unchanged(drawer):
    settings = {"preset": "Balanced", "params": {"top_k": 40}, "template": "", "template_variables": {"enable_thinking": False}}
    unknown = {"template_variables": {"enable_thinking": False, "tone": "dry"}, "system_prompt": "Be brief."}  # the form has no control for one, and reads not the other
    told, key, asked, problem, system, *rest = await drawer.show(event({"key": "c1", "asked": 3, "settings": {**settings, **unknown}}))
    assert (key, asked, problem["value"], system) == ("c1", 3, "", "Be brief.")
    plain = plain_values(drawer, rest)
    sent, _ = drawer.collect(key, asked, *plain)
    more = {"key": "c1", "asked": 3, "acting": ["top_k", "top_p", "temperature"], "apart": {"temperature": 1.0, "top_k": 0, "top_p": 1.0}}
    assert json.loads(sent) == {"settings": settings, "read": 1, **more}
    assert drawer.collect(key, asked, *plain)[0] != sent, "of an equal answer the browser would hear nothing"
    assert json.loads(told) == {"shown": settings, **more}, "both readings of the same form are alike, so nothing is stored"


async def test_the_notebook_has_no_conversation_settings(drawer):
    *_, rest = split(await drawer.show(event({"key": "notebook/1f", "settings": {"preset": "", "params": {"max_tokens": 9}}})))
    plain = plain_values(drawer, rest)
    sent, _ = drawer.collect("notebook/1f", 1, *plain)
    assert json.loads(sent)["settings"] == {"preset": "", "params": {"max_tokens": 9}}


async def test_a_preset_that_is_gone_is_told(drawer):
    problem, _ = split(await drawer.show(event({"key": "c1", "settings": {"preset": "Lost", "params": {}}})))
    assert "Lost" in problem["value"]


async def test_a_wrong_value_is_told_and_the_rest_is_sent(drawer):
    _, rest = split(await drawer.show(event({"key": "c1", "settings": {"template": "ChatML"}})))
    plain = plain_values(drawer, rest)
    names = [field.name for field in drawer._form.fields]
    plain[len(plain) - len(names) + names.index("seed")] = "minus one"
    sent, problem = drawer.collect("c1", None, *plain)
    settings = json.loads(sent)["settings"]
    assert problem["value"].startswith("Seed") and "params" not in settings and settings["template"] == "ChatML"


def test_a_preset_can_be_saved_and_deleted(drawer, app, monkeypatch):
    monkeypatch.setattr(gr, "Info", lambda *a, **k: None)
    values = [field.shown(getattr(GenerationParams(top_k=7), field.name)) for field in drawer._form.fields]
    drawer.save_preset("Mine", False, *values)
    assert app.presets.read("Mine") == GenerationParams(top_k=7)
    _, problem = drawer.save_preset("Mine", False, *values)
    assert "already" in problem["value"]
    drawer.delete_preset("Mine")
    assert "Mine" not in [row.name for row in app.presets.list()]


async def test_a_preset_is_the_default_when_it_is_made_that(drawer, app, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Info", lambda message, **_: told.append(message))
    app.presets.save("Mine", GenerationParams(top_k=7))
    row, offer, default = await drawer._memory.chosen("c1", "Mine")
    assert (row["info"], offer["visible"], default["visible"]) == ("", False, True)
    row, _, default = drawer._memory.make_default("c1", "Mine")
    assert row["info"].startswith("The default") and not default["visible"] and "Mine" in told[0]
    assert app.preset_choices.default() == "Mine"
    assert not drawer._memory.told("notebook/1f", "Balanced")[2]["visible"], "chats begin with it, the notebook does not"


def test_grammars_are_files_and_what_is_wrong_with_one_is_told(drawer, app, monkeypatch):
    monkeypatch.setattr(gr, "Info", lambda *a, **k: None)
    files = drawer._grammar
    note, row, _ = files.saved("Mine", False, 'root ::= "a')
    assert "line 1, column" in note["value"] and row == gr.skip() and app.presets.grammars.names() == ()
    note, row, name = files.saved("Mine", False, 'root ::= "a"')
    assert (note["visible"], row["value"], name) == ("hidden", "Mine", "Mine")
    assert "already a grammar" in files.saved("Mine", False, 'root ::= "b"')[0]["value"]
    files.saved("Mine", True, 'root ::= "b"')
    text, *_ = files.picked("Mine")
    assert text == 'root ::= "b"\n' and files.looked_at(text)[1]["value"] == "Mine" and files.looked_at("x")[1]["value"] == ""
    assert "There is no grammar" in files.picked("Other")[1]["value"]
    assert files.asked("Mine")[0]["visible"] and files.deleted("Mine", "")[1]["choices"] == [("none", "")]


def test_one_parameter_goes_back_to_the_preset(drawer):
    problem, *updates = drawer.reset_one("Balanced", event({"name": "temperature"}))
    shown = {field.name: value for field, value in zip(drawer._form.fields, updates, strict=True) if value != gr.skip()}
    assert problem["value"] == "" and list(shown) == ["temperature"] and shown["temperature"]["value"] == 0.8
    assert "no parameter" in drawer.reset_one("Balanced", event({"name": "__class__"}))[0]["value"]
    assert "Lost" in drawer.reset_one("Lost", event({"name": "temperature"}))[0]["value"]


def test_a_preset_file_is_imported_and_chosen(drawer, app):
    told, preset, problem, *_ = drawer.import_preset(event({"name": "Theirs.yaml", "text": "top_k: 12\n<b>tfs</b>: 0.9\n"}))
    assert preset["value"] == "Theirs" and problem["value"] == "" and app.presets.read("Theirs") == GenerationParams(top_k=12)
    assert r"\<b\>tfs\</b\>" in told["value"]
    told, *rest = drawer.import_preset(event({"name": "Theirs.yaml", "text": "- no"}))
    assert "name: value" in told["value"] and rest == [gr.skip()] * (2 + len(drawer._form.fields))


# ---- notices and rendering


async def test_attempt_tells_the_sentence_of_an_error(monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: told.append(("warning", message)))
    monkeypatch.setattr(gr, "Info", lambda message, **_: told.append(("info", message)))

    async def fail(error):
        raise error

    assert await notices.attempt(fail(LoadFailed("It does not fit."))) == "It does not fit."
    assert await notices.attempt(fail(InvalidRequest("Too large."))) == "Too large."
    assert await notices.attempt(fail(KeyError("secret"))) == notices.UNEXPECTED
    assert told == [("warning", "It does not fit."), ("info", "Too large."), ("warning", notices.UNEXPECTED)]


def test_rendering_for_the_routes():
    rendering = ViewRendering()
    assert rendering.blocks("**a**") == ("<p><strong>a</strong></p>\n",)
    assert rendering.streaming().feed("a\n\nb") == (0, ("<p>a</p>\n", "<p>b</p>\n"))
    assert (rendering.assets / "app.css").is_file()


@pytest.mark.parametrize(
    ("offered", "is_set", "shown"),
    [(("enable_thinking",), False, True), ((), False, "hidden"), ((), True, True), (None, False, True)],
)
def test_controls_of_thinking_are_shown_where_the_template_reads_them_or_they_are_set(offered, is_set, shown):
    assert _shown(offered, ("enable_thinking", "thinking"), is_set) == shown


async def test_another_template_has_its_own_switches(drawer, app):
    await app.templates.save("Switched", "{{ messages[0].content }}{% if thinking %}{{ reasoning_effort }}{% endif %}", stop=["##"])
    await app.templates.save("Plain one", "{{ messages[0].content }}", stop=["##"])
    try:
        assert [update["visible"] for update in await drawer.switches("Switched", "", "")] == [True, True]
        assert [update["visible"] for update in await drawer.switches("Plain one", "on", "")] == [True, "hidden"]
    finally:
        await app.template_doctor.close()


def test_every_style_is_linked_and_every_address_changes_with_the_files(tmp_path):
    linked = re.findall(r"ui/assets/[0-9a-f]{12}/([a-z_]+)\.css", page_options()["head"])
    loaded_by_scripts = {"perplexity"}
    assert {path.stem for path in ASSETS.glob("*.css")} == {*linked, *loaded_by_scripts}
    assert page_files.address("page.js") == f"ui/assets/{page_files.files_version(ASSETS)}/page.js"
    versions = set()
    for name, text in (("page.js", "1"), ("page.js", "2"), ("app.css", "1"), ("app.css", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        versions.add(page_files.files_version(tmp_path))
    assert len(versions) == 4
