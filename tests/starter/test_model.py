"""The shipped starter model: sizes, tokenizer and template in both forms, equal tokens, and its score."""

import json
import random
from pathlib import Path

import pytest

from tools.starter import dialogue, evaluate, topics
from tools.starter.gguf_file import write_gguf

MEGABYTE = 1_000_000
TEXTS = (
    "", " ", "  ", "a", " a", "a ", "Hello, world!", "How do I download a model?", "tab\there", "line\nbreak", "\n\n", "\r\n",
    "café", "naïve façade", "Straße", "日本語のテキスト", "русский", "עברית", "🙂", "👩‍👩‍👧‍👦", "a🙂b", "e\u0301", "\u00a0", "\u200b", "▁", "▁▁a ▁",
    "<s>x</s>", "<|im_start|>user\nhi<|im_end|>\n", "<0x41>", "0123456789", "3.14159", "q4_k_m Q8_0", "/v1/chat/completions",
    "python3 launch.py -- --port 8080", "\"stream\": true", "a" * 300, "  leading", "trailing  ", "x  y   z", "{}[]()<>|\\/", "I'm don't",
)


@pytest.fixture(scope="module")
def tokenizer(starter_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(starter_dir, trust_remote_code=False)


@pytest.fixture(scope="module")
def vocabulary(starter_gguf):
    import llama_cpp

    model = llama_cpp.Llama(str(starter_gguf), vocab_only=True, verbose=False)
    yield model
    model.close()


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(8)
    writer = dialogue.Writer(topics.load_intents(), frozenset())
    alphabet = "abcXYZ 019.,!?-_<>|\n\té🙂▁日"
    noise = ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(120)]
    return [*TEXTS, *noise, *(text for _ in range(60) for text in writer.exchange(rng)[0])]


def test_sizes_and_shape(starter_dir, starter_gguf):
    assert starter_gguf.stat().st_size <= 10 * MEGABYTE
    safetensors = [path for path in starter_dir.iterdir() if path.suffix != ".gguf"]
    assert sum(path.stat().st_size for path in safetensors) <= 20 * MEGABYTE
    config = json.loads((starter_dir / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["max_position_embeddings"] >= 1024
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0
    report = json.loads((starter_dir / "evaluation.json").read_text(encoding="utf-8"))
    assert 3_000_000 <= report["parameters"] <= 8_000_000
    assert report["training_s"] <= 90 * 60


def test_card_is_honest(starter_dir):
    card = (starter_dir / "README.md").read_text(encoding="utf-8")
    assert "tiny demo model" in card
    assert "should not be relied upon" in card


def test_both_libraries_split_every_text_alike(tokenizer, vocabulary, texts):
    assert len(texts) > 200
    for text in texts:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert vocabulary.tokenize(text.encode("utf-8"), add_bos=False, special=True) == expected, text
        assert tokenizer.decode(expected) == text.replace("▁", " ")  # SentencePiece writes a space so
        assert tokenizer(text)["input_ids"] == vocabulary.tokenize(text.encode("utf-8"), add_bos=True, special=True)


def test_every_byte_has_a_token(tokenizer):
    assert all(tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") != tokenizer.unk_token_id for byte in range(256))


def test_template_is_the_same_in_both_files_and_works_without_a_system_message(tokenizer, vocabulary):
    assert vocabulary.metadata["tokenizer.chat_template"] == tokenizer.chat_template.rstrip("\n")
    plain = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert plain == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    with_system = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], tokenize=False)
    assert with_system == "<s><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"


def test_end_tokens_agree(starter_dir, tokenizer, vocabulary):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    settings = json.loads((starter_dir / "generation_config.json").read_text(encoding="utf-8"))
    assert end in settings["eos_token_id"]
    assert tokenizer.eos_token_id == vocabulary.token_eos() == end
    assert int(vocabulary.metadata["tokenizer.ggml.eot_token_id"]) == end


def test_training_rows_are_laid_out_as_the_template_writes_them(tokenizer):
    writer = dialogue.Writer(topics.load_intents(), frozenset())
    from tools.starter import batches  # needs torch

    maker = batches.BatchMaker(writer, tokenizer.backend_tokenizer, seed=1, tokens_per_step=1024)
    rng = random.Random(4)
    for turns in (1, 3, 5):
        made = writer.conversation(rng, turns)
        messages = [{"role": "system", "content": made.system}] if made.system else []
        for question, answer in made.turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids, weights = maker.conversation(made)
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        trained = [token for token, weight in zip(ids, weights, strict=True) if weight == batches.ANSWER_WEIGHT]
        assert tokenizer.decode(trained) == "".join(answer + "<|im_end|>" for _, answer in made.turns)


def test_f16_file_gives_the_tokens_of_transformers(starter_dir, tokenizer, tmp_path):
    import llama_cpp
    import torch
    from transformers import AutoModelForCausalLM

    file = tmp_path / "starter-f16.gguf"
    write_gguf(starter_dir, file, "f16")
    network = AutoModelForCausalLM.from_pretrained(starter_dir, dtype=torch.float32, trust_remote_code=False)
    model = llama_cpp.Llama(str(file), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    for question in ("Hello!", "How do I load a model?", "What is a LoRA?", "My name is Mia. What is my name?"):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            made = network.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1]:].tolist()
        got = []
        for token in model.generate(ids[0].tolist(), temp=0.0, repeat_penalty=1.0):
            got.append(token)
            if token == tokenizer.eos_token_id or len(got) == 40:
                break
        assert got == made, question
    model.close()


def test_unknown_architecture_is_refused(starter_dir, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    with pytest.raises(ValueError, match="only 'llama'"):
        write_gguf(tmp_path, tmp_path / "x.gguf", "f16")


def test_shipped_file_answers_held_back_questions(starter_dir, starter_gguf):
    checks = topics.load_checks(topics.HELD_BACK)
    prompts = evaluate.rendered(starter_dir, [evaluate.messages_for(check.question) for check in checks])
    score = evaluate.judge(checks, evaluate.replies_of_gguf(starter_gguf, prompts))
    assert score.share >= 0.8, score.wrong
    reported = json.loads((starter_dir / "evaluation.json").read_text(encoding="utf-8"))["held_back_q8_0"]
    assert reported["total"] == score.total
    assert abs(reported["right"] - score.right) <= 3  # another processor may round a close choice the other way


def test_folder_answers_in_a_long_conversation(starter_dir, tokenizer):
    writer, rng = dialogue.Writer(topics.load_intents(), frozenset()), random.Random(6)
    earlier = [turn for _ in range(14) for turn in writer.exchange(rng)[:1]]
    long = [message for question, answer in earlier
            for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})]
    needs = {"How do I load a model?": "press load", "What is a LoRA?": "adapter", "Thank you!": "welcome"}
    conversations = [[*long, {"role": "user", "content": question}] for question in needs]
    prompt = tokenizer.apply_chat_template(conversations[0], tokenize=False)
    assert 500 < len(tokenizer(prompt)["input_ids"]) < 900
    replies = evaluate.replies_of_folder(Path(starter_dir), conversations)
    assert all(word in reply.lower() for word, reply in zip(needs.values(), replies, strict=True)), replies


def test_free_text_continues_in_english(starter_gguf):
    import llama_cpp

    model = llama_cpp.Llama(str(starter_gguf), n_ctx=512, n_threads=1, verbose=False)
    made = model.create_completion("Once upon a time there was", max_tokens=60, temperature=0.0)["choices"][0]["text"]
    model.close()
    assert " named " in made
    assert sum(word.strip('.,"?').isalpha() for word in made.split()) >= 0.9 * len(made.split())
