"""Samples: the conversations that templates are looked at with are ones that templates take."""

from __future__ import annotations

from modules.prompts.bos import for_model
from modules.prompts.library import TemplateLibrary
from modules.prompts.samples import PLAIN, SAMPLES, find_sample
from modules.prompts.template import Template


def test_every_sample_is_written_by_a_common_template(shipped: TemplateLibrary) -> None:
    template = Template(for_model(shipped.read("ChatML"), bos_token="", eos_token="<|im_end|>", adds_bos=False))
    for sample in SAMPLES:
        text = template.render(sample.messages, tools=sample.tools, add_generation_prompt=sample.asks).text
        assert all(message.content in text for message in sample.messages), sample.name
        assert text.endswith("<|im_start|>assistant\n") == sample.asks


def test_samples_are_found_by_their_names() -> None:
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES)
    assert find_sample("With a tool") is SAMPLES[-1]
    assert find_sample("nothing of that name") is SAMPLES[0]
    assert SAMPLES[-1] not in PLAIN
