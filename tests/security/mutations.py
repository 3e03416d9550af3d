"""Files and texts made to do harm, from a seed: GGUF files, folders with config and tokenizer, chat templates, grammars.

Each maker is a function of a random generator; number N of a run is the same in every run.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

EXTREME = (0, 1, 2, 7, 255, 1 << 15, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NAMES = (b"block_count", b"context_length", b"embedding_length", b"head_count", b"head_count_kv", b"dimension_count", b"feed_forward_length", b"rms_epsilon",
         b"freq_base", b"bos_token_id", b"eos_token_id", b"ggml.tokens", b"token_type", b"ggml.merges", b"ggml.model", b"chat_template", b"architecture", b"file_type")  # fmt: skip


# ---- GGUF ----------------------------------------------------------------------------------------------------------


def flip(data: bytearray, header: int, random: Random) -> None:
    """A few bytes of the header, or anywhere."""
    reach = header if random.random() < 0.8 else len(data)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        data[random.randrange(reach)] = random.randrange(256)


def extreme_number(data: bytearray, header: int, random: Random) -> None:
    """A number somewhere in the header becomes absurd."""
    place, size = random.randrange(4, header - 8), random.choice((4, 8))
    data[place : place + size] = (random.choice(EXTREME) % (1 << 8 * size)).to_bytes(size, "little")


def extreme_value(data: bytearray, header: int, random: Random) -> None:
    """The value of a key that loaders read."""
    place = data.find(random.choice(NAMES), 0, header)
    if place < 0:
        return extreme_number(data, header, random)
    end = data.find(b"\0\0\0", place, header)
    at = max(place, end - 1) + random.choice((0, 4, 8, 12))
    data[at : at + 4] = random.choice((struct.pack("<f", float("nan")), struct.pack("<I", random.choice(EXTREME) % (1 << 32))))
    return None


def counts(data: bytearray, header: int, random: Random) -> None:
    """How many tensors and keys there are."""
    at = random.choice((4, 8, 16))
    data[at : at + 8] = struct.pack("<Q", random.choice(EXTREME))


def cut(data: bytearray, header: int, random: Random) -> None:
    """The file ends early."""
    del data[random.randrange(len(data) if random.random() < 0.5 else header) :]


def insert(data: bytearray, header: int, random: Random) -> None:
    """Bytes that do not belong there."""
    place = random.randrange(24, header)
    data[place:place] = random.randbytes(random.choice((1, 4, 32, 4096)))


def double(data: bytearray, header: int, random: Random) -> None:
    """A part of the header stands there twice."""
    place, size = random.randrange(24, header), random.choice((8, 40, 400))
    data[place:place] = data[place : place + size]


def swap(data: bytearray, header: int, random: Random) -> None:
    """A part of the header is another part of it: equal tokens, equal tensors."""
    source, target, size = random.randrange(24, header - 64), random.randrange(24, header - 64), random.choice((4, 8, 16, 60))
    data[target : target + size] = data[source : source + size]


def broken_weights(data: bytearray, header: int, random: Random) -> None:
    """Numbers that are none, in the weights."""
    for _ in range(50):
        place = random.randrange(header, len(data) - 4)
        data[place : place + 4] = random.choice((b"\xff\xff\xff\xff", b"\x00\x7e\x00\x7e", b"\x00\x00\xc0\x7f"))


def template(data: bytearray, header: int, random: Random) -> None:
    """The chat template of the file is a hostile one of the same length."""
    place = data.find(b"tokenizer.chat_template", 0, header)
    if place < 0:
        return flip(data, header, random)
    at = place + len(b"tokenizer.chat_template") + 4
    length = int.from_bytes(data[at : at + 8], "little")
    if length > 1 << 16:
        return flip(data, header, random)
    data[at + 8 : at + 8 + length] = hostile_template(random).encode()[:length].ljust(length)
    return None


GGUF_MUTATIONS: tuple[Callable[[bytearray, int, Random], None], ...] = (
    flip, extreme_number, extreme_value, counts, cut, insert, double, swap, broken_weights, template,
)  # fmt: skip


def mutated_gguf(whole: bytes, header: int, number: int) -> tuple[str, bytes]:
    """What was done, and the file; `header` is where its weights begin."""
    random = Random(number)
    mutation = GGUF_MUTATIONS[number % len(GGUF_MUTATIONS)]
    data = bytearray(whole)
    mutation(data, header, random)
    return mutation.__name__, bytes(data)


# ---- config.json, tokenizer.json -----------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None, -1, 0, 1, 3, 2**31, 10**9, 2**63, 1e308, -1e-30, "", "x" * 5000, "../../../etc/passwd", "os.system", [], {}, [[]], [None], True, {"a": {"b": {}}}, "${7*7}",
    "(a+)+$", "<0x00>", ["x"] * 3000, "\ud800",
)  # fmt: skip
POISON: tuple[dict[str, Any], ...] = (
    {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}},
    {"attn_implementation": "org/kernel", "_attn_implementation": "org/kernel", "_attn_implementation_internal": "org/kernel", "experts_implementation": "org/kernel"},
    {"custom_pipelines": {"x": {"impl": "evil.Evil", "pt": ["AutoModel"]}}, "trust_remote_code": True},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_compute_dtype": "os.system"}},
    {"transformers_weights": "../../outside/secret"}, {"dtype": "__import__('os')"}, {"rope_parameters": {"rope_type": "dynamic", "factor": 1e300}},
    {"tokenizer_class": "evil.Evil"}, {"model_type": "lightglue"}, {"architectures": ["evil.Evil"]},
)  # fmt: skip
BOMBS: tuple[dict[str, Any], ...] = (
    {"num_hidden_layers": 10**9}, {"num_hidden_layers": 1000}, {"vocab_size": 10**12}, {"vocab_size": 1_999_999}, {"hidden_size": 65_536}, {"intermediate_size": 1 << 20},
    {"num_attention_heads": 4096}, {"head_dim": 8192}, {"max_position_embeddings": 2**62}, {"num_key_value_heads": 0}, {"hidden_size": -1},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value, not more than a few of each list."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:5] if isinstance(value, list) else ()
    for key, inner in list(items)[:60]:
        found += places(inner, (*path, key))
    return found


def mutated_json(text: str, random: Random) -> str:
    """A JSON file with something wrong in it, or one that is none any more."""
    if random.random() < 0.1:
        at = random.randrange(len(text))
        return random.choice((text[:at], text[:at] + "\0" + text[at:], "[" * 100_000, '{"a":' * 50_000, text.replace(":", "", 1), "\ufeff" + text, ""))
    value = json.loads(text)
    for _ in range(random.choice((1, 1, 2, 5))):
        *way, last = random.choice(places(value))
        at = value
        for key in way:
            at = at[key]
        if random.random() < 0.2 and isinstance(at, dict):
            del at[last]
        else:
            at[last] = copy.deepcopy(random.choice(VALUES))
    return json.dumps(value)


def mutated_folder(files: dict[str, str], number: int) -> tuple[str, dict[str, str]]:
    """What was done, and the changed files of a model folder."""
    random = Random(number)
    config = json.loads(files["config.json"])
    kind = ("poison", "bomb", "config", "tokenizer", "tokenizer settings")[number % 5]
    if kind == "poison":
        return kind, {name: json.dumps(json.loads(files[name]) | random.choice(POISON)) for name in ("config.json", "tokenizer_config.json")}
    if kind == "bomb":
        return kind, {"config.json": json.dumps(config | random.choice(BOMBS))}
    if kind == "tokenizer" and random.random() < 0.4:
        return "tokenizer bomb", {"tokenizer.json": json.dumps(json.loads(files["tokenizer.json"]) | random.choice(tokenizer_bombs()))}
    name = {"config": "config.json", "tokenizer": "tokenizer.json"}.get(kind, "tokenizer_config.json")
    return kind, {name: mutated_json(files[name], random)}


def tokenizer_bombs() -> tuple[dict[str, Any], ...]:
    """Parts of tokenizer.json that panic, abort or never end."""
    replace = [{"type": "Replace", "pattern": {"String": "a" if step == 0 else "b"}, "content": "b" * 100} for step in range(5)]
    return (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
        {"normalizer": {"type": "Sequence", "normalizers": replace}},
        {"added_tokens": [{"id": 2**32 - 1, "content": "a", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?<=a" * 50 + ")" * 50}, "behavior": "Isolated", "invert": False}},
        {"truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 2**60}},
        {"padding": {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}},
        {"decoder": {"type": "Sequence", "decoders": []}}, {"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}},
    )  # fmt: skip


# ---- templates and grammars ----------------------------------------------------------------------------------------

TEMPLATES = (
    "{{ 'a' * 10**9 }}", "{{ range(10**9) | list }}", "{{ (['a' * 1000000] * 100000) | join }}", "{{ 'a'.ljust(10**9) }}", "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}", "{{ [0] * 10**9 }}", "{{ 'a' | center(10**9) }}", "{{ lipsum(n=100000) }}", "{{ 10 ** (10 ** (10 ** 2)) }}",
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}", "{{ self._TemplateReference__context.environment.__class__ }}", "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends '/etc/passwd' %}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ strftime_now.__globals__ }}",
    "{{ raise_exception('x' * 10**8) }}", "{{ messages | map(attribute='__class__') | list }}", "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "{% if true %}" * 2_000 + "{% endif %}" * 2_000, "{{ range(99999) | batch(1) | list | string | length }}",
    "{{ (range(9999) | map('string') | join) * 10000 }}", "{% for a in range(10000) %}{{ 'x' * 1000 }}{% endfor %}", "{{ 1 / 0 }}", "{{", "{% for %}", "\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
)  # fmt: skip
PIECES = ("{{ messages", "[0]", ".content", " | upper", " | list", " * 99999", "{% for m in messages %}", "{% endfor %}", "{% if x %}", "{% set a = 'b' * 999 %}", "~ a", "()", "[::-1]",
          " | tojson", "raise_exception(a)", "}}", "range(9999)", "__class__", "{% macro a(b) %}", "{% endmacro %}", "loop.index0", "{# ", " #}", "''", "{%- generation %}", "{% endgeneration %}")  # fmt: skip
GRAMMARS = (
    "root ::= root", "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, 'root ::= (((("a"{2000}){2000}){2000}){2000})', 'root ::= "a"{10000000000}', "root ::= undefined", "", "root",
    'root ::= "', "root ::= [a", "root ::= [z-a]", 'root ::= "\\xZZ"', 'root ::= "a" | root "b" root', "root ::= a\na ::= b\nb ::= a", 'other ::= "a"', 'root ::= ("a"*)*', 'root ::= (""*)*',
    "root ::= .", "root ::= [^\\x00-\\U0010FFFF]", 'root ::= "a"{5,2}', 'root ::= "a"{-1}', 'root ::= "' + "a" * 100_000 + '"', "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(60)) + '\nr60 ::= "a"',
)  # fmt: skip
GRAMMAR_PIECES = ('"a"', "[a-z]", "(", ")", "|", "*", "+", "?", "{3}", "{0,99999}", "root", " ::= ", "\n", "x", "[^", "]", "\\", '"', "#", ".", "é")


def hostile_template(random: Random) -> str:
    """One of the list, or pieces put together."""
    return random.choice(TEMPLATES) if random.random() < 0.5 else "".join(random.choice(PIECES) for _ in range(random.randrange(2, 25)))


def hostile_grammar(random: Random) -> str:
    """One of the list, or pieces put together."""
    return random.choice(GRAMMARS) if random.random() < 0.4 else "root ::= " + "".join(random.choice(GRAMMAR_PIECES) for _ in range(random.randrange(2, 30)))


def text_of(number: int, known: tuple[str, ...], make: Callable[[Random], str]) -> str:
    """The list first, then made-up ones."""
    return known[number] if number < len(known) else make(Random(number))
