"""Addresses of OpenAI's and Anthropic's APIs that Paddock has nothing behind, each with what it has instead.

A client that asks for one gets a sentence, and not a page or a bare 404. Sources: the public references of both, and of Jina and Cohere for rerankers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter

from modules.api.answers import JsonAnswer
from modules.api.errors import error_body

NOT_STORED = "Nothing is stored for this API: send the whole conversation with each request."
FILES = "Files are not kept for this API. Put text and images into the messages; in the page documents can be attached."
TRAINING = "Training is started in the page, under Training, with a data set of datasets/."
# What an address begins with, and what is said there
SENTENCES: tuple[tuple[str, str], ...] = (
    ("/v1/audio", "Paddock neither hears nor speaks: models here write text, and read text and images."),
    ("/v1/realtime", "Paddock neither hears nor speaks: models here write text, and read text and images."),
    ("/v1/images", "Paddock draws no images: models here write text. To show one an image, put it into a message of /v1/chat/completions."),
    ("/v1/videos", "Paddock makes no films: models here write text, and read text and images."),
    ("/v1/moderations", "There is no moderation here: no model that is made for it comes with Paddock. Ask a model of your own with /v1/chat/completions."),
    ("/v1/rerank", "There are no rerankers here. /v1/embeddings makes vectors of texts, which can be compared."),
    ("/v1/score", "There are no rerankers here. /v1/embeddings makes vectors of texts, which can be compared; /v1/internal/score tells how likely a text is behind another."),
    ("/v1/files", FILES),
    ("/v1/uploads", FILES),
    ("/v1/containers", "Paddock runs no code for a model. Give the model a tool of yours, and run that yourself."),
    ("/v1/vector_stores", "Texts are not stored for this API. /v1/embeddings makes vectors; keep them in a store of yours."),
    ("/v1/batches", "There are no batches: send the requests one by one, as many at a time as you like; they wait for each other fairly."),
    ("/v1/messages/batches", "There are no batches: send the requests one by one, as many at a time as you like; they wait for each other fairly."),
    ("/v1/fine_tuning", TRAINING),
    ("/v1/evals", "Evaluations of this kind are not run here. The page measures perplexity, and lm-eval can use /v1/completions."),
    ("/v1/assistants", "There are no assistants here. /v1/chat/completions and /v1/responses take instructions and tools with each request."),
    ("/v1/threads", NOT_STORED),
    ("/v1/conversations", NOT_STORED),
    ("/v1/responses", "Answers are not stored here, so none can be fetched, cancelled or deleted later: keep what POST /v1/responses answered."),
    ("/v1/chat/completions", "Answers are not stored here, so none can be fetched later: keep what POST /v1/chat/completions answered."),
    ("/v1/complete", "Anthropic's older text completions are not offered; send messages to /v1/messages, or a plain text to /v1/completions."),
    ("/v1/edits", "Edits are an older form that is not offered; say what to change in a message of /v1/chat/completions."),
    ("/v1/engines", "Engines are the older name of models: use /v1/models, and /v1/completions with the model in the body."),
)
TAKEN = frozenset({"/v1/responses", "/v1/chat/completions"})  # routes of ours: only what stands below them is not there
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def elsewhere_router() -> APIRouter:
    """All of them. They stand behind the routes that exist, and are no part of the description."""
    router = APIRouter()
    for prefix, sentence in SENTENCES:
        for address in (f"{prefix}/{{rest:path}}", *([] if prefix in TAKEN else [prefix])):
            router.add_api_route(address, _refusal(sentence), methods=list(METHODS), include_in_schema=False, response_model=None)
    return router


def _refusal(sentence: str) -> Callable[[], Awaitable[JsonAnswer]]:
    async def refuse() -> JsonAnswer:
        return JsonAnswer(error_body(sentence, "not_found_error", code="not_offered"), status_code=404)

    return refuse
