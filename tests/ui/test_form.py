"""Forms: every field of every model has a component, keeps its value and its bounds."""

from typing import Literal

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from modules.core.errors import InvalidRequest
from modules.core.model import LoadOptions
from modules.core.params import DEFAULT_ORDER, GenerationParams
from modules.loaders.registry import LOADERS
from modules.training.options import TrainingOptions
from modules.ui.form import Form, escaped, fields_of, label_of, unescaped

MODELS = (GenerationParams, LoadOptions, TrainingOptions, *(spec.options for spec in LOADERS))


def built(model, values=None):
    form = Form(model)
    with gr.Blocks():
        form.build(values)
    return form


def shown(form, values):
    return [field.shown(getattr(values, field.name)) for field in form.fields]


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: model.__name__)
def every_form(request):
    """A form of each model; nothing below changes it."""
    return built(request.param)


@pytest.fixture(scope="module")
def form():
    return built(GenerationParams)


def test_every_field_that_is_not_hidden_has_a_component_with_its_sentence(every_form):
    form, model = every_form, every_form.model
    hidden = {name for name, info in model.model_fields.items() if (info.json_schema_extra or {}).get("hidden")}
    assert {field.name for field in form.fields} == set(model.model_fields) - hidden
    for field, component in zip(form.fields, form.components, strict=True):
        assert component.label == label_of(field.name)
        assert component.info.startswith(model.model_fields[field.name].description)


def test_defaults_survive_the_way_through_the_form(every_form):
    assert every_form.read([component.value for component in every_form.components]) == every_form.model()


@pytest.mark.parametrize("options", [spec.options for spec in LOADERS], ids=lambda options: options.__name__)
def test_slots_that_nobody_set_are_left_to_the_loader_and_a_number_is_kept(options):
    form = built(options)
    component = form.component("slots")
    assert (component.value, component.minimum, component.maximum) == (0, 0, 64)
    assert "0 chooses by memory and context" in component.info
    for number, stored in ((0, {}), (4, {"slots": 4})):
        assert form.read(shown(form, options(slots=number))).model_dump(exclude_defaults=True) == stored


def test_numbers_have_the_bounds_of_the_model(every_form):
    form, model = every_form, every_form.model
    for field, component in zip(form.fields, form.components, strict=True):
        if field.kind not in ("slider", "number"):
            continue
        rules = {word: getattr(rule, word) for rule in model.model_fields[field.name].metadata for word in ("ge", "gt", "le", "lt") if hasattr(rule, word)}
        beside = {"rendezvous": "10.0.0.1:29400"} if field.name == "nodes" else {}  # without which several machines are refused
        assert component.minimum >= rules.get("ge", rules.get("gt"))
        assert component.maximum <= rules.get("le", rules.get("lt"))
        model(**{field.name: field.read(component.minimum)})
        model(**{field.name: field.read(component.maximum)}, **beside)


def test_changed_values_survive():
    values = GenerationParams(
        temperature=0.7, top_k=40, stop=("\n", "###", "a\\n"), seed=2**64 - 1, logit_bias={5: -1.5, 7: 2}, banned_tokens=(1, 2),
        sampler_order=tuple(reversed(DEFAULT_ORDER)), mirostat_mode=2, ban_eos=True,
    )  # fmt: skip
    form = built(GenerationParams, values)
    assert form.read([component.value for component in form.components]) == values
    assert form.read(shown(form, values)) == values


def test_a_text_of_several_lines_has_a_box_of_several_lines(form):
    boxes = {field.name: component for field, component in zip(form.fields, form.components, strict=True)}
    assert boxes["grammar"].label == "Grammar"
    assert boxes["json_schema"].label == "JSON schema"
    assert (boxes["json_schema"].lines, boxes["grammar"].lines, boxes["regex"].lines) == (6, 6, 1)
    values = GenerationParams(grammar='root ::= "a"\nroot2 ::= "b\\n"')
    assert form.read(shown(form, values)) == values
    with pytest.raises(InvalidRequest, match="A text has one shape: json_schema and regex are given; leave all but one empty"):
        form.read([{"json_schema": "{}", "regex": "a"}.get(field.name, value) for field, value in zip(form.fields, shown(form, values.__class__()), strict=True)])


def test_a_slider_ends_at_its_usual_end_and_grows_for_a_larger_value(form):
    field = next(field for field in form.fields if field.name == "max_tokens")
    slider = form.components[form.fields.index(field)]
    assert slider.maximum == 8192
    assert field.update(100_000)["maximum"] == 100_000
    assert field.update(10)["maximum"] == 8192


def test_a_slider_ends_where_the_caller_says(form):
    place = [field.name for field in form.fields].index("top_k")
    assert form.updates(GenerationParams(), {"top_k": 17})[place]["maximum"] == 17
    assert form.updates(GenerationParams(top_k=40), {"top_k": 17})[place]["maximum"] == 40
    assert form.updates(GenerationParams())[place]["maximum"] > 17


def test_a_suggested_value_is_offered_and_another_one_can_be_typed():
    form = built(LoadOptions, LoadOptions(draft_model="typed.gguf"))
    place = [field.name for field in form.fields].index("draft_model")
    assert form.components[place].value == "typed.gguf"
    assert form.components[place].allow_custom_value
    update = form.updates(LoadOptions(draft_model="b.gguf"), suggestions={"draft_model": ["a.gguf", "b.gguf"]})[place]
    assert update["value"] == "b.gguf"
    assert [value for _, value in update["choices"]] == ["", "a.gguf", "b.gguf"]
    assert form.updates(LoadOptions())[place] == ""
    values = shown(form, LoadOptions())
    for cleared in (None, "", [], "  "):
        values[place] = cleared
        assert form.read(values) == LoadOptions()


@pytest.mark.parametrize(("name", "value", "words"), [
    ("temperature", 9, "Temperature: input should be less than or equal to 5; got 9."),
    ("seed", "-3", "Seed: input should be greater than or equal to 0; got '-3'."),
    ("seed", "abc", "Seed: input should be a valid integer"),
    ("logit_bias", "5 = 3", "has no colon"),
    ("logit_bias", "5: 300", "Logit bias: logit_bias needs"),
    ("banned_tokens", "1, x", "Banned tokens"),
    ("sampler_order", '{"order": ["top_k", "top_k"]}', "names a sampler twice"),
    ("sampler_order", "[", "could not be read"),
])  # fmt: skip
def test_a_wrong_value_is_refused_with_field_and_rule(form, name, value, words):
    values = shown(form, GenerationParams())
    values[[field.name for field in form.fields].index(name)] = value
    with pytest.raises(InvalidRequest) as refused:
        form.read(values)
    assert words in refused.value.message
    assert refused.value.details["field"] == name


def test_an_emptied_number_is_the_default(form):
    values = shown(form, GenerationParams())
    values[[field.name for field in form.fields].index("top_p")] = None
    assert form.read(values) == GenerationParams()


def test_a_type_without_component_is_an_error_not_a_missing_control():
    class Strange(BaseModel):
        x: dict[str, list[int]] = Field(default_factory=dict)

    with pytest.raises(TypeError, match="no component"):
        fields_of(Strange)


def test_a_new_field_needs_nothing_else():
    class Grown(GenerationParams):
        new_sampler: float = Field(0.5, ge=0, le=1, description="New.", json_schema_extra={"group": "New"})
        mode: Literal["a", "b"] = Field("a", description="Mode.")

    form = built(Grown)
    assert {"new_sampler", "mode"} <= {field.name for field in form.fields}
    assert form.read([component.value for component in form.components]) == Grown()


@given(st.text())
@settings(deadline=None)
def test_strings_on_one_line_come_back(text):
    assert unescaped(escaped(text)) == text
    assert "\n" not in escaped(text)


def test_labels_know_acronyms():
    assert label_of("kv_type") == "KV type" and label_of("repetition_penalty") == "Repetition penalty"
    assert label_of("rslora") == "rsLoRA" and label_of("lora_plus_ratio") == "LoRA+ ratio"


def test_a_rule_about_several_fields_is_told_without_all_of_them():
    with pytest.raises(InvalidRequest) as caught:
        built(TrainingOptions).read(shown(Form(TrainingOptions), TrainingOptions.model_construct(**{**TrainingOptions().model_dump(), "patience": 2, "held_out_percent": 0})))
    assert caught.value.message == "Patience needs held-out data: set held_out_percent above 0."


def test_what_matters_most_is_above_the_groups_and_read_in_its_place():
    form = Form(TrainingOptions)
    with gr.Blocks() as blocks:
        parts = form.build(TrainingOptions(rank=4, epochs=2), first=("epochs", "rank"))
    made = [block for block in blocks.blocks.values() if block in parts]
    assert [part.label for part in made[:2]] == ["Epochs", "Rank"]
    assert len(made) == len(form.fields)
    assert form.read([part.value for part in parts]) == TrainingOptions(rank=4, epochs=2)
