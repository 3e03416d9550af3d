"""`lm-eval`: one model's score through Paddock's routes, and through the harness's own transformers back end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from asked import Server, tell
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

CHOICES, REPLIES = "paddock_choices", "paddock_replies"
server = Server()
folder = os.environ["PADDOCK_FOLDER"]
tasks = TaskManager(include_path=str(Path(os.environ["PADDOCK_TASKS"])), include_defaults=False)
os.environ["OPENAI_API_KEY"] = server.key
hf = {"pretrained": folder, "dtype": "float32", "max_length": 1024}
# add_bos_token: the harness puts the first token of a text there by itself with transformers, and only when told to with a server
served = {"model": server.model, "num_concurrent": 4, "max_retries": 1, "max_length": 1024}


def evaluate(model: str, arguments: dict[str, Any], task: str, **more: Any) -> dict[str, Any]:
    """Score of a task, and what the model answered to each question."""
    found = simple_evaluate(model=model, model_args=arguments, tasks=[task], task_manager=tasks, bootstrap_iters=0, log_samples=True, **more)
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    score = {name: value for name, value in found["results"][task].items() if isinstance(value, float) and "stderr" not in name}
    return {"score": score, "answers": [sample["filtered_resps"] for sample in samples]}


completions = {**served, "base_url": f"{server.openai_url}/completions", "tokenizer": folder, "tokenizer_backend": "huggingface", "add_bos_token": True}
chats = {**served, "base_url": f"{server.openai_url}/chat/completions"}
tell({
    "hf choices": evaluate("hf", hf, CHOICES, batch_size=1, device="cpu"),
    "served choices": evaluate("local-completions", {**completions, "tokenized_requests": True}, CHOICES, batch_size=4),
    "text choices": evaluate("local-completions", {**completions, "tokenized_requests": False}, CHOICES, batch_size=1),
    "hf replies": evaluate("hf", hf, REPLIES, batch_size=1, device="cpu", apply_chat_template=True),
    "served replies": evaluate("local-chat-completions", chats, REPLIES, apply_chat_template=True),
})
