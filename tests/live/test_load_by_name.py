"""Models that a request names: loaded for it, unless the server was told not to."""

from __future__ import annotations

import shutil
from pathlib import Path

import openai
import pytest

from tests.live.conftest import client_of
from tests.paddock_server import STARTER, PaddockServer

OTHER = "other.gguf"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_model_is_loaded_by_its_name(tmp_path: Path, starter_gguf: Path, allowed: bool) -> None:
    models = tmp_path / "models"
    (models / "starter").mkdir(parents=True)
    shutil.copy(starter_gguf, models / "starter")
    shutil.copy(starter_gguf, models / OTHER)
    flags = ("--no-ui", "--model", STARTER, *(() if allowed else ("--no-load-on-demand",)))
    server = PaddockServer(tmp_path, models, tmp_path / "loras", *flags)
    try:
        with client_of(server) as client:
            loaded = {model.id: model.model_extra["loaded"] for model in client.models.list()}
            assert (loaded[STARTER], loaded[OTHER]) == (True, False)
            asks = (
                lambda: client.chat.completions.create(model=OTHER, messages=HELLO, max_tokens=1),
                lambda: client.responses.create(model=OTHER, input="Hello", max_output_tokens=1),
            )
            for ask in asks:
                if allowed:
                    assert ask().model == OTHER
                else:
                    with pytest.raises(openai.APIStatusError, match=OTHER) as caught:
                        ask()
                    assert caught.value.body["message"].endswith(".")
            assert client.models.retrieve(OTHER).model_extra["loaded"] == allowed
            messages = server.http.post("v1/messages", json={"model": STARTER, "max_tokens": 1, "messages": HELLO})
            assert messages.status_code == 200 and messages.json()["model"] == STARTER, "and back again"
    finally:
        server.close()
