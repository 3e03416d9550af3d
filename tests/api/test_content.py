"""What a chat request may carry: text and images in parts, and every limit in a sentence."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from modules.api.schemas import ChatRequest
from modules.core.messages import IMAGE_LIMIT, IMAGE_LIMIT_BYTES
from tests.tiny_vision import picture


def address(file: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": url}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def message_of(*parts: dict[str, Any]) -> Any:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": list(parts)}]}).messages[0].to_message()


def refusal(*parts: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as raised:
        message_of(*parts)
    return raised.value.errors()[0]["msg"]


def test_images_keep_their_places_between_text() -> None:
    first, second = picture(1), picture(2, form="JPEG")
    message = message_of(text("one "), image({"url": address(first), "detail": "high"}), text("two"), image(address(second, "png")), text(" three"))
    assert message.content == "one two three"
    assert [(part.kind, part.at) for part in message.images] == [("png", 4), ("jpeg", 7)]  # by its bytes, whatever it is called
    assert [part if isinstance(part, str) else base64.b64decode(part.data) for part in message.parts()] == ["one ", first, "two", second, " three"]
    assert message.images[1].address == address(second, "jpeg")


@pytest.mark.parametrize(("form", "kind"), [("PNG", "png"), ("JPEG", "jpeg"), ("GIF", "gif"), ("WEBP", "webp")])
def test_the_four_kinds(form: str, kind: str) -> None:
    message = message_of({"type": "input_image", "image_url": address(picture(1, form=form))}, text("?"))
    assert message.images[0].kind == kind


@pytest.mark.parametrize(
    "url", ["https://example.com/a.png", "http://127.0.0.1:1/a.png", "file:///etc/passwd", "/etc/passwd", "data:image/png,abc", "", "base64,abc"]
)
def test_no_address_is_ever_fetched(url: str) -> None:
    assert "Paddock fetches no addresses" in refusal(image({"url": url}), text("?"))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (address(b"BM" + b"0" * 60), "no PNG, JPEG, WebP or GIF"), (address(b""), "no PNG, JPEG, WebP or GIF"), ("data:image/png;base64,ä%%", "not in base64"),
        ("data:image/png;base64," + "A" * (IMAGE_LIMIT_BYTES // 3 * 4 + 8), "larger than the limit of 16 MiB; make it smaller"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_told(url: str, sentence: str) -> None:
    assert sentence in refusal(image(url), text("?"))


def test_the_number_of_images_is_limited() -> None:
    one = image(address(picture(1)))
    assert len(message_of(*[one] * IMAGE_LIMIT, text("?")).images) == IMAGE_LIMIT
    assert f"{IMAGE_LIMIT + 1} images are more than the limit of {IMAGE_LIMIT}" in refusal(*[one] * (IMAGE_LIMIT + 1))


def test_other_parts_are_refused_by_name() -> None:
    assert "“input_audio” are not supported yet" in refusal({"type": "input_audio", "input_audio": {"data": ""}})


def test_plain_text_stays_as_it_was() -> None:
    for content in ("hello", [text("hel"), text("lo")], None):
        message = ChatRequest.model_validate({"messages": [{"role": "user", "content": content}]}).messages[0].to_message()
        assert (message.content, message.images) == ("hello" if content else "", ())
        assert "images" not in message.for_template()
