"""The options of a run on the page: what the form holds reaches the browser, and comes back after a reload, also when it is wrong."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest

from modules.core.settings import Settings
from modules.services.app import build_app
from modules.training.options import TrainingOptions
from modules.ui.tabs.training import FIRST, TrainingTab


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    base = tmp_path_factory.mktemp("training")
    folders = ("models_dir", "loras_dir", "datasets_dir", "presets_dir", "templates_dir", "state_dir")
    made = TrainingTab(build_app(Settings(**{name: base / name for name in folders}, model="none")))
    with gr.Blocks():
        made.build()
    return made


def event(data):
    return gr.EventData(None, data)


def shown(tab, **changes):
    values = TrainingOptions()
    return [changes.get(field.name, field.shown(getattr(values, field.name))) for field in tab._form.fields]


def plain(updates):
    return [update.get("value") if isinstance(update, dict) else update for update in updates]


def told(answer):
    return json.loads(answer[0]), answer[1]["value"]


def test_the_few_that_matter_stand_above_the_groups(tab):
    names = [field.name for field in tab._form.fields]
    assert set(FIRST) < set(names)
    parents = {name: type(tab._form.components[names.index(name)].parent.parent).__name__ for name in ("rank", "dropout")}
    assert parents == {"rank": "Column", "dropout": "Accordion"}


def test_the_answer_to_a_question_has_its_number_and_all_options(tab):
    found, problem = told(tab.collect(event({"question": 7}), *shown(tab, rank=8, target_modules="q_proj\nv_proj")))
    assert found["question"] == 7 and problem == found["problem"] == ""
    assert TrainingOptions.model_validate(found["options"]) == TrainingOptions(rank=8, target_modules=("q_proj", "v_proj"))


def test_a_wrong_value_is_told_and_kept_as_it_was_typed(tab):
    found, problem = told(tab.collect_edit(*shown(tab, rank=0, rendezvous="somewhere")))
    assert found["options"] is None
    assert problem == found["problem"] == "Rank: input should be greater than or equal to 1; got 0."
    again = tab.show(event({"shown": found["shown"]}))
    assert again[0]["value"] == ""
    after, _ = told(tab.collect_edit(*plain(again[1:])))
    assert after["shown"]["rank"] == 0 and after["shown"]["rendezvous"] == "somewhere"


def test_what_can_not_be_shown_any_more_becomes_the_default(tab):
    raw = {"scheduler": "gone", "rank": "many", "packing": 3, "seed": None, "unknown": 1, "sample_prompts": "One?\nTwo?"}
    found, problem = told(tab.collect_edit(*plain(tab.show(event({"shown": raw}))[1:])))
    assert problem == ""
    assert TrainingOptions.model_validate(found["options"]) == TrainingOptions(sample_prompts=("One?", "Two?"))


def test_options_of_an_earlier_run_fill_the_form(tab):
    earlier = TrainingOptions(rank=300, learning_rate=0.5, target_all=False, target_modules=("q_proj",), preference="kto")
    updates = tab.show(event({"options": earlier.model_dump(mode="json")}))
    found, _ = told(tab.collect_edit(*plain(updates[1:])))
    assert TrainingOptions.model_validate(found["options"]) == earlier
    rank = next(update for update, field in zip(updates[1:], tab._form.fields, strict=True) if field.name == "rank")
    assert rank["maximum"] == 300  # a slider grows for what is beyond its usual end


def test_options_of_another_version_are_taken_as_far_as_they_are_known(tab):
    given = {"rank": 4, "an_option_of_the_future": 1, "scheduler": "gone"}
    found, _ = told(tab.collect_edit(*plain(tab.show(event({"options": given}))[1:])))
    assert TrainingOptions.model_validate(found["options"]) == TrainingOptions(rank=4)


def test_back_to_defaults(tab):
    found, _ = told(tab.collect_edit(*plain(tab.show_defaults()[1:])))
    assert TrainingOptions.model_validate(found["options"]) == TrainingOptions()


def test_nothing_told_is_no_fault(tab):
    assert told(tab.collect(SimpleNamespace(_data=None), *shown(tab)))[0]["question"] == 0
