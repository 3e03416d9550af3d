"""Learn and write the tokenizer: BPE in the SentencePiece manner, with byte fallback.

Knows the vocabulary layout: three control tokens, 256 byte tokens, two chat markers, characters, merges. A token's score
in a GGUF file is minus its id, and a pair of tokens may merge whenever its union is a token, lowest id first: that is
llama.cpp's rule, so both libraries split every text the same way. No space is put before a text.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

UNKNOWN, BEGIN, END, TURN_START, TURN_END = "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"
SPACE = "\u2581"
PRINTABLE = tuple(chr(code) for code in range(0x21, 0x7F))
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def learn(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn a tokenizer of exactly ``vocabulary`` tokens from ``texts``."""
    first = [UNKNOWN, BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(256)), TURN_START, TURN_END]
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never"),
        pre_tokenizers.Split(Regex(rf"{SPACE}?[A-Za-z]+|{SPACE}?[^A-Za-z]"), "isolated"),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(first), initial_alphabet=[SPACE, *PRINTABLE], show_progress=False,
        limit_alphabet=1 + len(PRINTABLE), min_frequency=2,
    )
    base.train_from_iterator(texts, trainer)
    learned = sorted(base.get_vocab().items(), key=lambda item: item[1])
    tokens = first + [token for token, _ in learned]
    if len(tokens) != vocabulary:
        raise ValueError(f"{len(tokens)} tokens learned instead of {vocabulary}; give more text or a smaller vocabulary")
    return assemble(tokens)


def assemble(tokens: list[str]) -> Tokenizer:
    """Build the tokenizer whose token ids are the positions in ``tokens``."""
    ids = {token: number for number, token in enumerate(tokens)}
    merges = []
    for token in tokens[261:]:
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        merges += [pair for pair in pairs if ids.get(pair[0], 0) > 260 and ids.get(pair[1], 0) > 260]
    made = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [AddedToken(text, special=True, normalized=False) for text in (UNKNOWN, BEGIN, END, TURN_START, TURN_END)]
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, ids[BEGIN])]
    )
    return made


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of ``token``, which must exist."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return int(found)


def write(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context_length, "add_bos_token": True,
        "add_eos_token": False, "bos_token": BEGIN, "eos_token": TURN_END, "unk_token": UNKNOWN, "pad_token": END,
        "clean_up_tokenization_spaces": False, "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n", encoding="utf-8")
