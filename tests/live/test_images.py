"""Images through the running server: the official client sends them as data URLs, and only so."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.live.conftest import client_of
from tests.paddock_server import STARTER, PaddockServer
from tests.tiny_image_text import image_text_folder
from tests.tiny_vision import picture, vision_files

SEER = "seer/qwen2vl.gguf"
FOLDER = "smolvlm"  # of transformers
FIRST, SECOND = picture(1, (224, 168), "JPEG"), picture(2, (224, 168), "WEBP")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path) -> Iterator[PaddockServer]:
    """A model that sees, and the starter model, which does not."""
    models = tmp_path_factory.mktemp("seeing-models")
    files = vision_files(tmp_path_factory.getbasetemp(), "qwen2vl")
    (models / "seer").mkdir()
    shutil.copy(files.model, models / SEER)
    shutil.copy(files.projector, models / "seer" / "mmproj-seer.gguf")
    shutil.copytree(starter_dir, models / "starter")
    image_text_folder(models / FOLDER, "smolvlm")
    folder = tmp_path_factory.mktemp("seeing")
    running = PaddockServer(folder, models, tmp_path_factory.mktemp("seeing-loras"), "--no-ui", "--model", SEER, model=SEER)
    yield running
    running.close()


def content(*parts: bytes | str) -> list[dict]:
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": f"data:image/any;base64,{base64.b64encode(part).decode()}"}}
        for part in parts
    ]


def ask(client: openai.OpenAI, *parts: bytes | str, model: str = SEER) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content(*parts)}], temperature=0, max_tokens=10, extra_body={"ban_eos": True}
    )


def test_replies_depend_on_images_and_usage_counts_them(seeing: PaddockServer) -> None:
    with client_of(seeing) as client:
        first, again, other, blind = (ask(client, *parts) for parts in (("See ", FIRST, "?"), ("See ", FIRST, "?"), ("See ", SECOND, "?"), ("See ?",)))
        texts = [reply.choices[0].message.content for reply in (first, again, other, blind)]
        assert texts[0] == texts[1]
        assert len(set(texts)) == 3
        assert first.usage.prompt_tokens - blind.usage.prompt_tokens > 48  # 8 × 6 patches and the words around them
        assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_a_folder_of_transformers_sees_as_well(seeing: PaddockServer) -> None:
    with client_of(seeing) as client:
        first, again, other, blind = (ask(client, *parts, model=FOLDER) for parts in (("See ", FIRST, "?"), ("See ", FIRST, "?"), ("See ", SECOND, "?"), ("See ?",)))
        texts = [reply.choices[0].message.content for reply in (first, again, other, blind)]
        assert texts[0] == texts[1]
        assert len(set(texts)) == 3
        assert first.usage.prompt_tokens - blind.usage.prompt_tokens > 20  # five parts of four tokens, and the words between them
        assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1
    listed = {entry["id"]: entry for entry in httpx.get(f"{seeing.url}v1/models").json()["data"]}
    assert listed[FOLDER]["vision"] is True


def test_a_stream_and_two_images_in_a_conversation(seeing: PaddockServer) -> None:
    with client_of(seeing) as client:
        messages = [
            {"role": "user", "content": content(FIRST, "What is it?")},
            {"role": "assistant", "content": "A fox."},
            {"role": "user", "content": content("And ", SECOND, " this?")},
        ]
        asked = {"model": SEER, "messages": messages, "temperature": 0, "max_tokens": 10, "extra_body": {"ban_eos": True}}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        pieces = client.chat.completions.create(**asked, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == whole


def test_the_list_of_models_says_who_sees_and_shows_no_projector(seeing: PaddockServer) -> None:
    listed = {entry["id"]: entry for entry in httpx.get(f"{seeing.url}v1/models").json()["data"]}
    assert listed[SEER]["vision"] is True
    assert not any("mmproj" in name for name in listed)
    assert listed[STARTER]["vision"] is None


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://127.0.0.1:9/picture.png", "Paddock fetches no addresses"), ("data:image/png;base64,QUJD", "no PNG, JPEG, WebP or GIF"),
        (f"data:image/png;base64,{base64.b64encode(picture(1)[:90]).decode()}", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_with_a_sentence(seeing: PaddockServer, address: str, sentence: str) -> None:
    with client_of(seeing) as client, pytest.raises(openai.BadRequestError) as raised:
        message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": "?"}]}
        client.chat.completions.create(model=SEER, messages=[message], max_tokens=5)
    assert sentence in str(raised.value)


def test_a_model_that_does_not_see_says_so(seeing: PaddockServer) -> None:
    with client_of(seeing) as client:
        with pytest.raises(openai.BadRequestError, match=r"does not see images. Choose a model that does, or put the projector"):
            ask(client, FIRST, "?", model=STARTER)
        assert ask(client, "What is a LoRA?", model=STARTER).choices[0].message.content
