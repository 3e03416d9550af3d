"""Make the starter model from nothing: text, tokenizer, training, export, evaluation.

Run ``python -m tools.train_starter`` in the repository root. A run that was interrupted goes on where its last
checkpoint ends; ``--fresh`` starts again.
"""

import argparse
import dataclasses
import json
import logging
import random
import shutil
from pathlib import Path

from tools.starter import batches, dialogue, evaluate, export, tokenizer, topics, training

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER_EXCHANGES = 20_000
log = logging.getLogger("train_starter")


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Train Paddock's starter model.")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1; more only on a quiet machine)")
    parser.add_argument("--steps", type=int, default=training.Recipe().steps, help="training steps")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "starter", help="folder to write")
    parser.add_argument("--work", type=Path, default=ROOT / ".state" / "starter-training", help="checkpoints")
    parser.add_argument("--fresh", action="store_true", help="throw old checkpoints away")
    parser.add_argument("--export-only", action="store_true", help="export the last checkpoint and evaluate it")
    return parser.parse_args()


def main() -> None:
    """Run every stage."""
    import torch

    chosen = options()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(chosen.threads)
    if chosen.fresh:
        shutil.rmtree(chosen.work, ignore_errors=True)
    recipe = dataclasses.replace(training.Recipe(), steps=chosen.steps)
    writer = dialogue.Writer(topics.load_intents(), topics.forbidden_questions())
    texts = dialogue.tokenizer_texts(writer, random.Random(recipe.seed), TOKENIZER_EXCHANGES)
    learned = tokenizer.learn(texts, recipe.vocabulary)
    begin, end = tokenizer.token_id(learned, tokenizer.BEGIN), tokenizer.token_id(learned, tokenizer.TURN_END)
    model = training.build_model(recipe, begin, end)
    log.info("%d parameters, %d steps", sum(value.numel() for value in model.parameters()), recipe.steps)
    if chosen.export_only:
        state = torch.load(chosen.work / "checkpoint.pt", weights_only=True)
        model.load_state_dict(state["model"])
        seconds = state["spent_s"]
    else:
        maker = batches.BatchMaker(writer, learned, recipe.seed, recipe.tokens_per_step)
        seconds = training.train(model, maker, recipe, chosen.work)
    export.write_folder(model, learned, chosen.out, recipe.context_length)
    report = evaluate.report(chosen.out, model.num_parameters(), recipe, seconds)
    (chosen.out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    export.write_card(chosen.out, report)
    log.info("held-back questions: %.1f %% right", 100 * report["held_back"]["share"])


if __name__ == "__main__":
    main()
