"""An open page that is left alone does nothing: no frames, no animations, few requests; and none when nobody can see it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from tests.e2e.screens import ChatScreen, ModelsScreen
from tests.paddock_server import wait_for

AREAS = ("chat", "notebook", "models", "training", "templates")
# Set before any script of the page: whoever keeps the browser's function for later keeps this one
COUNT_FRAMES = """
    const frame = window.requestAnimationFrame;
    window.frames_asked = 0;
    window.requestAnimationFrame = (draw) => { window.frames_asked += 1; return frame.call(window, draw); };
"""
RUNNING = "document.getAnimations().filter((one) => one.playState === 'running').map((one) => one.animationName ?? one.transitionProperty)"
QUIET_MS = 500
HIDE = """
    Object.defineProperty(document, "hidden", { get: () => true });
    document.dispatchEvent(new Event("visibilitychange"));
"""


def frames_of(page: Page) -> int:
    """How many frames are asked for in half a second."""
    before = page.evaluate("window.frames_asked")
    page.wait_for_timeout(QUIET_MS)
    return int(page.evaluate("window.frames_asked")) - int(before)


@pytest.mark.parametrize("area", AREAS)
def test_no_area_draws_frames_or_animates_when_left_alone(chat: ChatScreen, page: Page, area: str) -> None:
    page.add_init_script(COUNT_FRAMES)
    chat.open()
    assert page.evaluate("window.frames_asked") > 0, "the page draws while it opens, and that is counted"
    if area != "chat":
        page.locator(f"#area-{area}-button").click()
    wait_for(lambda: frames_of(page) == 0, "no frame is asked for", 20)
    assert page.evaluate(RUNNING) == []


def test_frames_are_there_for_who_asks_after_gradio_has(chat: ChatScreen, page: Page) -> None:
    chat.open()
    assert page.evaluate("new Promise((done) => requestAnimationFrame(done))") > 0
    kept = page.evaluate("Object.getOwnPropertyDescriptor(window, 'requestAnimationFrame')")
    assert "get" not in kept, "once Gradio's counters have been loaded nothing stands before the browser's own function"


def test_what_rarely_changes_is_rarely_asked_for(models: ModelsScreen, page: Page) -> None:
    models.open()
    asked: list[str] = []
    for _ in range(2):  # the second round begins when all has been read once
        asked.clear()
        page.on("request", lambda request: asked.append(request.url.removeprefix(models.server.url)))
        for _ in range(3):
            with page.expect_response(lambda answer: answer.url.endswith("/ui/models")):
                pass
    assert asked.count("ui/models") >= 3
    assert asked.count("ui/fit") <= 2 and asked.count("ui/remote") <= 2, asked


def test_a_page_that_nobody_sees_asks_for_nothing(models: ModelsScreen, page: Page) -> None:
    models.open()
    page.evaluate(HIDE)
    page.wait_for_timeout(2500)  # what was asked for before has come
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(5000)
    assert asked == []
