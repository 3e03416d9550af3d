"""Score a finished model: greedy replies against the words each reply must contain.

Knows the question files and both ways of running the model. Knows nothing of how it was trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.starter.topics import HELD_BACK, TUNING, Check, load_checks

LONGEST_REPLY_TOKENS = 120
EARLIER_TURNS = (
    ("Hello!", "Hello! How can I help you?"),
    ("What is a LoRA?", "A LoRA is a small adapter that changes how a model writes without touching its weights. "
                        "It is trained quickly and can be switched on and off."),
    ("ok thanks", "You are welcome!"),
)


@dataclass(frozen=True, slots=True)
class Score:
    """How many replies were right, and the wrong ones."""

    right: int
    total: int
    wrong: tuple[dict[str, str], ...]

    @property
    def share(self) -> float:
        """Right replies divided by all."""
        return self.right / self.total


def messages_for(question: str, system: str | None = None, earlier: bool = False) -> list[dict[str, str]]:
    """Return the conversation that ends with ``question``."""
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answered in EARLIER_TURNS if earlier else ():
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return [*messages, {"role": "user", "content": question}]


def judge(checks: Sequence[Check], replies: Sequence[str]) -> Score:
    """Compare each reply with what its check needs."""
    wrong = tuple({"intent": check.intent, "question": check.question, "reply": reply}
                  for check, reply in zip(checks, replies, strict=True) if not check.accepts(reply))
    return Score(len(checks) - len(wrong), len(checks), wrong)


def replies_of_folder(folder: Path, conversations: Sequence[list[dict[str, str]]]) -> list[str]:
    """Return greedy replies of the safetensors folder, computed in float32 by transformers, in one batch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    texts = [tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in conversations]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.inference_mode():
        made = model.generate(**batch, max_new_tokens=LONGEST_REPLY_TOKENS, do_sample=False)
    return tokenizer.batch_decode(made[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)


def replies_of_gguf(file: Path, texts: Sequence[str]) -> list[str]:
    """Return greedy replies of the GGUF file, computed by llama.cpp, for rendered prompts."""
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    try:
        return [_complete(model, text) for text in texts]
    finally:
        model.close()


def _complete(model: Any, text: str) -> str:
    ids = model.tokenize(text.encode("utf-8"), add_bos=False, special=True)
    made = model.create_completion(ids, max_tokens=LONGEST_REPLY_TOKENS, temperature=0.0, repeat_penalty=1.0)
    reply: str = made["choices"][0]["text"]
    return reply


def report(folder: Path, parameters: int, recipe: Any, seconds: float) -> dict[str, Any]:
    """Return everything evaluation.json says about the model in ``folder``."""
    import dataclasses

    import torch

    held, tuning = load_checks(HELD_BACK), load_checks(TUNING)
    ways: dict[str, tuple[tuple[Check, ...], dict[str, Any]]] = {
        "held_back": (held, {}),
        "held_back_later_turn": (held, {"earlier": True}),
        "held_back_system_prompt": (held, {"system": "You are a helpful assistant."}),
        "tuning": (tuning, {}),
    }
    found: dict[str, Any] = {"parameters": parameters, "training_s": round(seconds),
                             "threads": torch.get_num_threads(), "recipe": dataclasses.asdict(recipe)}
    for name, (checks, manner) in ways.items():
        conversations = [messages_for(check.question, **manner) for check in checks]
        found[name] = as_dict(judge(checks, replies_of_folder(folder, conversations)))
    texts = rendered(folder, [messages_for(check.question) for check in held])
    file = next(folder.glob("*.gguf"))
    found["held_back_q8_0"] = as_dict(judge(held, replies_of_gguf(file, texts)))
    return found


def rendered(folder: Path, conversations: Sequence[list[dict[str, str]]]) -> list[str]:
    """Return the prompts as the model's chat template writes them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return [str(tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True))
            for each in conversations]


def as_dict(score: Score) -> dict[str, Any]:
    """Return a score for the report file."""
    return {"right": score.right, "total": score.total, "share": round(score.share, 4), "wrong": list(score.wrong)}
