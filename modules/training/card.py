"""The card that goes with an adapter: README.md for people and the hub, training.json for programs and for doing it again.

Says what was done and measured. Holds no path of this machine, and quotes no data but the prompts that the person wrote for it: an adapter is passed on
more easily than its data may be. Knows no model and no tensor.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, Field

from modules.core.files import dump_yaml, write_atomic
from modules.training.card_text import Table, code_block, duration, figure, inline
from modules.training.evidence import Proof
from modules.training.options import TrainingOptions
from modules.training.spec import TrainArgs

README, RECORD = "README.md", "training.json"
RECORD_VERSION = 1
CURVE_ROWS = 12
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name: the hub refuses a card that names anything else
VERDICTS: Mapping[str, str] = MappingProxyType({"green": "🟢 green", "amber": "🟠 amber", "red": "🔴 red"})


class RunFacts(BaseModel, frozen=True):
    """What only the run knows. Whatever is not known stays at its default and out of the card."""

    data_digest: str = ""
    train_samples: int = 0
    held_out_samples: int = 0
    exact: int = 0  # samples left out because an earlier one is the same
    near: int = 0  # or nearly the same
    sequences: int = 0  # that the training samples became
    trained_tokens: int = 0  # with a label, in all steps together
    base_fingerprint: dict[str, Any] = Field(default_factory=dict)
    base_repository: str = ""  # on the hub, where the base model came from there
    trainable: int = 0  # parameters of the adapter
    parameters: int = 0  # of the base model
    steps: int = 0
    planned_steps: int = 0
    epochs: float = 0  # really seen
    seconds: float = 0
    device: str = ""
    ended: str = ""  # a sentence where it ended before its time: "Stopped by hand; what was learned is kept."
    curve: tuple[dict[str, Any], ...] = ()  # rows of curve.jsonl
    ended_s: float = 0  # since 1970; 0 takes now


def write_card(folder: Path, args: TrainArgs, proof: Proof | None, facts: RunFacts) -> None:
    """Write both files into the adapter's folder."""
    write_atomic(folder / RECORD, json.dumps(record(args, proof, facts), ensure_ascii=False, indent=1) + "\n")
    write_atomic(folder / README, readme(args, proof, facts))


def record(args: TrainArgs, proof: Proof | None, facts: RunFacts) -> dict[str, Any]:
    """What training.json says: the arguments without paths, the data's and the base's fingerprints, versions, figures."""
    known = facts.model_dump(mode="json")
    return {
        "version": RECORD_VERSION,
        "made_by": "Paddock",
        "date": _date(facts),
        "args": _plain_args(args),
        "data": {"digest": facts.data_digest, **{name: known[name] for name in ("train_samples", "held_out_samples", "exact", "near", "sequences")}},
        "base": {"name": args.base, "repository": facts.base_repository, "parameters": facts.parameters},
        "base_fingerprint": known["base_fingerprint"],  # where `loaders/fingerprint.py` looks for it
        "versions": versions(),
        "run": {name: known[name] for name in ("steps", "planned_steps", "epochs", "trained_tokens", "trainable", "seconds", "device", "ended")},
        "curve": known["curve"],
        "proof": proof_summary(proof) if proof is not None else None,
    }


def _plain_args(args: TrainArgs) -> dict[str, Any]:
    """The arguments as another machine can read them: of each path its last part."""
    values = args.model_dump(mode="json", exclude={"base_path", "loras_dir"})
    del values["options"]["rendezvous"]  # an address of somebody's network
    values["dataset"]["path"] = args.dataset.path.name
    if args.held_out is not None:
        values["held_out"]["path"] = args.held_out.path.name
    values["continue_from"] = args.continue_from.name if args.continue_from is not None else None
    return values


def proof_summary(proof: Proof) -> dict[str, Any]:
    """The figures of a proof, without the texts: held-out items are somebody's data."""
    values = proof.model_dump(mode="json", exclude={"answers", "worst"})
    values["worst"] = [item.model_dump(mode="json", include={"where", "before", "after", "tokens"}) for item in proof.worst]
    values["answers"] = len(proof.answers)
    return values


def versions() -> dict[str, str]:
    """What it was made with. Paddock has no version numbers: a hash of the training code tells one state of it from another."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return {**found, "paddock": f"training code {digest.hexdigest()[:12]}"}


def readme(args: TrainArgs, proof: Proof | None, facts: RunFacts) -> str:
    """The card as Markdown. Everything that people or models wrote stands in it as text, never as markup."""
    parts = [
        _front_matter(args, facts),
        f"# {inline(args.name)}\n\nA LoRA adapter for **{inline(args.base)}**, trained with Paddock on {_date(facts)}. "
        "It changes how the base model answers and does nothing without it.",
        inline(args.notes),
        _proof_section(args, proof),
        _data_section(args, facts),
        _training_section(args, facts),
        _use_section(args, facts),
        "## Licence\n\nNone is stated. Before you pass the adapter on, add the one you choose to the front of this file (`license: …`); "
        "those of the base model and of the data bind you too.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(args: TrainArgs, facts: RunFacts) -> str:
    tags = ["lora", "paddock"]
    if args.dataset.format in ("preference", "feedback"):
        tags.append(args.options.preference)
    values: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": tags}
    repository = facts.base_repository or args.base
    if HUB_NAME.fullmatch(repository):
        values = {"base_model": repository, **values}
    return f"---\n{dump_yaml(values)}---"


def _proof_section(args: TrainArgs, proof: Proof | None) -> str:
    if proof is None:
        return "## Proof\n\nNothing was measured after training: whether the adapter helps is not known."
    table = Table("measured on", "base model", "with the adapter", "change")
    for name, compared in (("held-out items: loss", proof.held_out), ("general text: loss", proof.general)):
        if compared is not None:
            table.add(name, figure(compared.before), figure(compared.after), f"{compared.change:+.1%}" if compared.is_number else "not a number")
    if proof.preference is not None:
        if proof.preference.before is not None and proof.preference.after is not None:
            table.add("pairs whose better answer is likelier", f"{proof.preference.before:.0%}", f"{proof.preference.after:.0%}", "")
        table.add("items that moved towards the better answer", "", f"{proof.preference.moved:.0%}", "")
    parts = [f"## Proof\n\n{VERDICTS[proof.verdict]}: {inline(proof.sentence)}", str(table)]
    if proof.held_out is not None:
        of = f" of {proof.held_out.of_sequences}" if proof.held_out.of_sequences > proof.held_out.sequences else ""
        parts.append(f"Held-out: {proof.held_out.sequences}{of} items with {proof.held_out.tokens} learned tokens that training never saw. Loss in nats for each token.")
    parts.append(_answers(args, proof))
    return "\n\n".join(part for part in parts if part)


def _answers(args: TrainArgs, proof: Proof) -> str:
    """Answers side by side, where the person chose the prompts."""
    if not proof.answers:
        return ""
    if not args.prompts:
        return f"{len(proof.answers)} answers to held-out prompts are with the run, not here: they quote its data."
    parts = ["### Answers, greedy"]
    for answer in proof.answers:
        parts += ["Prompt:", code_block(answer.prompt), "Base model:", code_block(answer.base), "With the adapter:", code_block(answer.adapter)]
    return "\n\n".join(parts)


def _data_section(args: TrainArgs, facts: RunFacts) -> str:
    table = Table("data", "")
    table.add("name", args.dataset.name or args.dataset.path.name)
    table.add("format", args.dataset.format)
    table.add("samples learned", facts.train_samples)
    table.add("samples held out", facts.held_out_samples)
    if args.held_out is not None:
        table.add("held out from", args.held_out.name or args.held_out.path.name)
    if facts.exact or facts.near:
        table.add("left out as duplicates", f"{facts.exact} the same, {facts.near} nearly the same")
    table.add("SHA-256 of all samples", facts.data_digest)
    return f"## Data\n\n{table}"


def _training_section(args: TrainArgs, facts: RunFacts) -> str:
    table = Table("training", "")
    table.add("method", _method(args))
    if facts.trainable:
        share = f" ({facts.trainable / facts.parameters:.2%} of {facts.parameters:,})" if facts.parameters else ""
        table.add("learned parameters", f"{facts.trainable:,}{share}")
    planned = f" of {facts.planned_steps}" if facts.planned_steps > facts.steps else ""
    table.add("steps", f"{facts.steps}{planned}")
    table.add("epochs", f"{facts.epochs:.2f}" if facts.epochs else "")
    table.add("learned tokens", f"{facts.trained_tokens:,}" if facts.trained_tokens else "")
    table.add("time", duration(facts.seconds) if facts.seconds else "")
    table.add("device", facts.device)
    table.add("ended", facts.ended)
    table.add("base model's fingerprint", _fingerprint(facts.base_fingerprint))
    table.add("versions", ", ".join(f"{name} {version}" for name, version in versions().items()))
    return "\n\n".join(part for part in (f"## Training\n\n{table}", _options_table(args.options), _curve_table(facts.curve)) if part)


def _method(args: TrainArgs) -> str:
    """The method in words."""
    options = args.options
    kinds = {"rsLoRA": options.rslora, "DoRA": options.dora, "PiSSA": options.pissa, "LoRA+": options.lora_plus_ratio > 0}
    name = ", ".join(kind for kind, is_on in kinds.items() if is_on) or "LoRA"
    if options.precision in ("4bit", "8bit"):
        name += f" on a base in {options.precision} (QLoRA)"
    learned = {"preference": f"{options.preference.upper()} on pairs", "feedback": f"{options.preference.upper()} on single answers", "text": "plain text"}
    return f"{name}, rank {options.rank}, alpha {options.alpha:g}; learned: {learned.get(args.dataset.format, options.learn)}"


def _fingerprint(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:16]}" for name, value in values.items() if isinstance(value, str | int))


def changed_options(options: TrainingOptions) -> dict[str, Any]:
    """The options that are not at their defaults, but for an address of somebody's network."""
    default = TrainingOptions()
    return {name: getattr(options, name) for name in TrainingOptions.model_fields if name != "rendezvous" and getattr(options, name) != getattr(default, name)}


def _options_table(options: TrainingOptions) -> str:
    changed = changed_options(options)
    if not changed:
        return "All options are at their defaults."
    table = Table("option that differs", "value", "default")
    for name, value in changed.items():
        table.add(name, _shown(value), _shown(getattr(TrainingOptions(), name)))
    return str(table)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _curve_table(curve: Sequence[Mapping[str, Any]]) -> str:
    """A dozen rows of the curve: the first, the last, and some between; where there are, those with a held-out loss."""
    rows = [row for row in curve if "held_out_loss" in row] or [row for row in curve if "loss" in row]
    if not rows:
        return ""
    places = sorted({round(place * (len(rows) - 1) / max(1, CURVE_ROWS - 1)) for place in range(CURVE_ROWS)}) if len(rows) > CURVE_ROWS else range(len(rows))
    table = Table("step", "loss", "held-out loss", "learning rate")
    for place in places:
        row = rows[place]
        rate = row.get("learning_rate")
        table.add(row.get("step", ""), figure(row.get("loss")), figure(row.get("held_out_loss")), f"{rate:.2e}" if isinstance(rate, int | float) else "")
    return str(table)


def _use_section(args: TrainArgs, facts: RunFacts) -> str:
    options = args.options
    base = facts.base_repository or args.base
    tokenizer = '"path/to/this/folder"' if options.new_tokens else "base"
    resize = "model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().num_embeddings))\n" if options.new_tokens else ""
    code = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = {json.dumps(base)}  # or the folder it is in\n"
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})\nmodel = AutoModelForCausalLM.from_pretrained(base)\n{resize}"
        'model = PeftModel.from_pretrained(model, "path/to/this/folder").eval()\n'
    )  # fmt: skip
    if options.dora or options.train_embeddings or options.new_tokens:
        why = "DoRA" if options.dora else "trained embeddings"
        gguf = f"llama.cpp cannot apply an adapter with {why}. Merge it into the base model (Models page) and convert the result."
    else:
        gguf = "Convert it on the Training page, which writes a GGUF adapter that llama.cpp applies to any quantization of the base model (`--lora FILE`)."
    template = ""
    if args.template is not None and args.template_name:
        template = f"\n\nIt was trained with another chat template than the model's own ({inline(args.template.origin)}); ask with the same. Its text is in `training.json`."
    return (
        "## Use\n\n**In Paddock**: put this folder into `loras/`, load the base model and choose the adapter beside it."
        f"{template}\n\n**With PEFT**:\n\n{code_block(code, 'python')}\n\n**With llama.cpp**: {gguf}"
    )


def _date(facts: RunFacts) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(facts.ended_s or time.time()))
