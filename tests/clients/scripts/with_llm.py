"""The `llm` command line, with a model of Paddock in its list of further models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from asked import MAX_TOKENS, QUESTION, SCHEMA, STOP, SYSTEM, TOO_LONG, UNKNOWN, WRONG_KEY, Server, tell
from click.testing import CliRunner
from llm.cli import cli

server = Server()
folder = Path(os.environ["LLM_USER_PATH"])
options = ("-o", "temperature", "0", "-o", "max_tokens", str(MAX_TOKENS))


def entry(name: str, model: str) -> dict[str, object]:
    """What the file of further models has for one, as its documentation says."""
    return {
        "model_id": name, "model_name": model, "api_base": server.openai_url, "api_key_name": "paddock", "can_stream": True,
        "supports_schema": True, "supports_tools": True,
    }  # fmt: skip


def llm(*words: str) -> tuple[int, str, str]:
    """Run the command in this process, as starting Python anew each time takes longest; its exit status and what it wrote."""
    done = CliRunner().invoke(cli, words)
    return done.exit_code, done.stdout.strip(), done.stderr.strip()


def really(*words: str) -> str:
    """What it writes in a process of its own, as from a terminal."""
    done = subprocess.run([sys.executable, "-m", "llm", *words], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip()


def prompt(*words: str, model: str = "paddock", key: str = server.key) -> tuple[str, ...]:
    """The words of one prompt."""
    return ("prompt", "-m", model, "--key", key, *options, *words)


# JSON is YAML too
(folder / "extra-openai-models.yaml").write_text(json.dumps([entry("paddock", server.model), entry("unknown", UNKNOWN)]), encoding="utf-8")
whole = llm(*prompt("--no-stream", "-s", SYSTEM, QUESTION))
logged = json.loads(llm("logs", "--json", "-n", "1")[1])[0]
tell({
    "models": [line.partition(": ")[2].split(" ")[0] for line in llm("models")[1].splitlines()],
    "text": whole[1],
    "usage": [logged["input_tokens"], logged["output_tokens"]],
    "streamed": really(*prompt("-s", SYSTEM, QUESTION)),
    "stopped": llm(*prompt("-s", SYSTEM, "-o", "stop", STOP, QUESTION))[1],
    "shaped": json.loads(llm(*prompt("-s", SYSTEM, "--schema", json.dumps(SCHEMA), QUESTION))[1]),
    # Tools are only offered: the command line cannot insist on a call
    "offered tools": llm(*prompt("--functions", "def weather(city: str) -> str: return city", QUESTION))[1],
    "wrong key": llm(*prompt(QUESTION, key=WRONG_KEY))[2],
    "unknown model": llm(*prompt(QUESTION, model="unknown"))[2],
    "too long": llm(*prompt(TOO_LONG))[2],
})
