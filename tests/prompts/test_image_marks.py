"""Where images stand in a rendered prompt."""

from __future__ import annotations

import pytest

from modules.core.errors import InvalidRequest
from modules.core.messages import Image, Message
from modules.prompts.image_marks import ImageMarks


def image(data: str, at: int = 0) -> Image:
    return Image(kind="png", data=data, at=at)


MESSAGES = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="one two", images=(image("A", 0), image("B", 4), image("C", 4), image("D", 7))),
    Message(role="user", images=(image("E"),)),
)


def test_images_come_back_in_their_places() -> None:
    marks = ImageMarks(MESSAGES)
    assert marks.messages[0] is MESSAGES[0]
    assert not any(message.images for message in marks.messages)
    pieces = marks.split("|".join(message.content for message in marks.messages))
    assert [piece if isinstance(piece, str) else piece.data for piece in pieces] == ["Be brief.|", "A", "one ", "B", "C", "two", "D", "|", "E"]


def test_each_prompt_has_marks_of_its_own() -> None:
    first, second = ImageMarks(MESSAGES), ImageMarks(MESSAGES)
    with pytest.raises(InvalidRequest, match="wrote 0 of the 5 images"):
        second.split("".join(message.content for message in first.messages))


def test_without_images_nothing_is_looked_for() -> None:
    assert ImageMarks(MESSAGES[:1]).split("[image-0-0]") == ["[image-0-0]"]


@pytest.mark.parametrize("change", [lambda text: text[:20], lambda text: text + text, lambda text: text.upper()])
def test_a_text_that_lost_or_doubled_an_image_is_refused(change) -> None:
    marks = ImageMarks(MESSAGES[1:2])
    with pytest.raises(InvalidRequest, match="of the 4 images of this conversation.*Choose another prompt template"):
        marks.split(change(marks.messages[0].content))
