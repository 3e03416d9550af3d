"""Loading a GGUF file with llama.cpp: check the header, plan memory, make model and context, measure threads.

Runs in the engine's child process. Every failure becomes a sentence; what was made before it is freed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from modules.core.errors import NotFound, OutOfMemory, UnsupportedFormat
from modules.core.model import LoadedModel, ModelInfo, TemplateSource
from modules.loaders.draft import with_draft
from modules.loaders.fit import Needs, together
from modules.loaders.gguf_header import GgufHeader, read_gguf_header
from modules.loaders.llama_cpp.adapters import AdapterSet
from modules.loaders.llama_cpp.c_api import FLASH_ATTENTION, NativeLog, library
from modules.loaders.llama_cpp.embedder import WITHOUT_STATES, SlotEmbedder
from modules.loaders.llama_cpp.embedding_model import check_embedding_model, embedding_model
from modules.loaders.llama_cpp.memory import (
    TO_COME_BYTES,
    Plan,
    estimate,
    held_shape,
    is_mapped,
    layers_that_fit,
    mapped_note,
    plan_context,
    projector_needs,
    share_on_gpu,
    with_slots,
)
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.peft_adapter import base_shape
from modules.loaders.llama_cpp.projector import Projector
from modules.loaders.llama_cpp.projector_file import Choice, choose_projector, without_projector
from modules.loaders.llama_cpp.runner import LlamaCppRunner, most_outputs
from modules.loaders.llama_cpp.thread_choice import HeldModel, set_threads
from modules.loaders.llama_cpp.thread_notes import ThreadNotes
from modules.loaders.llama_cpp.tokenizer import LlamaCppTokenizer
from modules.loaders.llama_cpp.vision_runner import VisionRunner
from modules.loaders.llama_cpp.weights_reader import read_weights, refusal
from modules.loaders.llama_cpp.wide_weights import Weights, choose_weights
from modules.loaders.machine import (
    RESERVE_BYTES,
    available_bytes,
    graphics_bytes,
    resident_bytes,
    spill_bytes,
    usable_cores,
)
from modules.loaders.model_info import gguf_parts, read_info
from modules.loaders.pooling import gguf_recipe
from modules.loaders.shape import Shape, gguf_shape
from modules.loaders.spec import Progress

MOST_APART_WITH_DRAFT = 4  # slots with caches of their own, of which some rest
NUMA_STRATEGIES = MappingProxyType({"distribute": 1, "isolate": 2, "numactl": 3})  # ggml-cpu.h


def load(path: Path, options: LlamaCppOptions, progress: Progress, known: ThreadNotes | None = None) -> LoadedModel:
    """Load a GGUF model. `known` has what earlier loads measured, and gets what this one does.

    Raises:
        UnsupportedFormat: the file is broken or of an architecture llama.cpp does not know.
        OutOfMemory: it does not fit; with what would.
        LoadFailed: llama.cpp refused it for another reason, in its own words.
    """
    progress("Reading the file header", None)
    before = resident_bytes()
    headers, info = _described(path)
    header = headers[0]
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort must not wait for a debugger
    binding = library()
    if not info.can_write:
        return _embedding_model(headers, info, options, progress)
    shape = gguf_shape(headers, info.size_bytes)
    asked, eyes = options, choose_projector(path, options.mmproj)
    options, gpu_share, notes = _settled(shape, asked, eyes)
    weights, plan = _held(header, shape, options, eyes, gpu_share)
    mapped, remark = _mapping(weights, shape, options, _needs(weights.held(shape), options, eyes, gpu_share).total(plan.capacity_tokens))
    with ExitStack() as undo:
        log = NativeLog()
        log.listen()
        undo.callback(log.silence)
        binding.llama_backend_init()
        if options.numa != "off":
            binding.llama_numa_init(NUMA_STRATEGIES[options.numa])
        model = read_weights(weights, options, progress, log, mapped=mapped)
        undo.callback(binding.llama_model_free, model)
        if binding.llama_model_has_encoder(model) or not binding.llama_model_has_decoder(model):
            raise UnsupportedFormat(f"{path.name} is not a model that continues text ({header.architecture}); choose another one.")
        projector, eyes = _open_projector(eyes, model, options, progress, log)
        if projector is not None:
            undo.callback(projector.close)
        progress("Making the key-value cache", None)
        shared = projector is not None or gpu_share > 0 or not can_be_apart(model, options, plan)
        context = _make_context(model, options, plan, path.name, log, shared=shared)
        log.silence()
        undo.pop_all()
    runner = _make_runner(context, model, projector, options, plan, shared=shared)
    held = HeldModel(gguf_parts(path), info.size_bytes, gpu_share > 0, (mapped, weights.wide is not None, shared))
    set_threads(runner, options, held, known, progress)
    tokenizer = LlamaCppTokenizer(binding.llama_model_get_vocab(model), plan.context_length)
    adapters = AdapterSet(model, runner, log, base_shape(headers))
    loaded = LoadedModel(
        runner=runner,
        tokenizer=tokenizer,
        info=info,
        template=_template(header, tokenizer),
        set_adapters=adapters.apply,
        vision=projector,
        embedder=None if header.architecture in WITHOUT_STATES else SlotEmbedder(runner, context, model, tokenizer, gguf_recipe(header)),
        spill_bytes=runner.mark_within(spill_bytes(options.spill_memory_gb)),
        memory_bytes=max(0, resident_bytes() - before),
        notes=(*notes, *plan.notes, *filter(None, (weights.note, eyes.note, remark))),
        measured=known.new if known is not None else {},
    )
    return with_draft(loaded, options, lambda draft, told: load(draft, asked.of_draft(options.slots, plan.context_length, plan.capacity_tokens), told, known=known), progress)


def _described(path: Path) -> tuple[tuple[GgufHeader, ...], ModelInfo]:
    """What the files of a model say of it, the first one first."""
    header = read_gguf_header(path, keep_tokens=True)
    info = read_info(path, path.parent)
    if info.problem:
        raise UnsupportedFormat(info.problem)
    return (header, *(read_gguf_header(part) for part in gguf_parts(path)[1:])), info


def _embedding_model(headers: Sequence[GgufHeader], info: ModelInfo, options: LlamaCppOptions, progress: Progress) -> LoadedModel:
    """A model that only makes vectors."""
    header, before = headers[0], resident_bytes()
    shape = gguf_shape(headers, info.size_bytes)
    weights = _held_for_vectors(header, shape, info, options)
    mapped, remark = _mapping(weights, shape, options)
    binding = library()
    with ExitStack() as undo:
        log = NativeLog()
        log.listen()
        undo.callback(log.silence)
        binding.llama_backend_init()
        model = read_weights(weights, options, progress, log, mapped=mapped)
        undo.callback(binding.llama_model_free, model)
        loaded = embedding_model(model, header, info, options, lambda: refusal(header.path.name, log, options))
        log.silence()
        undo.pop_all()
    loaded.memory_bytes, loaded.notes = max(0, resident_bytes() - before), (*loaded.notes, *filter(None, (weights.note, remark)))
    return loaded


def _held_for_vectors(header: GgufHeader, shape: Shape, info: ModelInfo, options: LlamaCppOptions) -> Weights:
    """How the weights are held; unasked they take no memory that the longest text wants."""
    weights = choose_weights(header, shape, options, on_gpu=_offloads())
    try:
        check_embedding_model(header, info, options, weights.held(shape).held_bytes or info.size_bytes)
    except OutOfMemory:
        if weights.wide is None or options.widen_weights == "on":
            raise
        weights = Weights(header)
        check_embedding_model(header, info, options, info.size_bytes)
    return weights


def _mapping(weights: Weights, shape: Shape, options: LlamaCppOptions, all_bytes: int = 0) -> tuple[bool, str]:
    """Whether the file is mapped, with a note where more memory would change that."""
    on_gpu = _offloads()
    if weights.wide is not None or not is_mapped(shape, options, on_gpu=on_gpu, all_bytes=all_bytes):
        return False, ""
    return True, mapped_note(options, on_gpu=on_gpu)


def _settled(shape: Shape, asked: LlamaCppOptions, eyes: Choice) -> tuple[LlamaCppOptions, float, tuple[str, ...]]:
    """The options with what is chosen by the free memory, layers on the graphics card and then slots; the share of the model on that card, and notes."""
    options, gpu_share, notes = _placed(shape, asked, eyes, can_offload=_offloads())
    may_be_apart = _may_be_apart(options, eyes, gpu_share)
    options, note = with_slots(shape, options, lambda given: _needs(shape, given, eyes, gpu_share), may_be_apart=may_be_apart)
    return options, gpu_share, (*notes, *filter(None, (note,)))


def _placed(shape: Shape, options: LlamaCppOptions, eyes: Choice, *, can_offload: bool) -> tuple[LlamaCppOptions, float, tuple[str, ...]]:
    """The options with the number of layers that fits on the graphics card, the share of the model that is, and a note where it is a part."""
    if not can_offload:
        return options, 0.0, ()
    graphics = graphics_bytes("llama.cpp", options.main_gpu if options.split_mode == "none" else None)
    graphics = max(0, graphics - projector_needs(eyes.header, on_gpu=False))  # it lies there too
    layers = layers_that_fit(shape, options, graphics, max(0, available_bytes() - RESERVE_BYTES))
    chosen = 0 <= layers != options.gpu_layers
    note = f"{layers} of {shape.layers} layers are on the graphics card: what fits into its free memory; fewer slots or a shorter context make room for more."
    return options.model_copy(update={"gpu_layers": layers}), share_on_gpu(layers, shape), (note,) if chosen else ()


def _held(header: GgufHeader, shape: Shape, options: LlamaCppOptions, eyes: Choice, gpu_share: float) -> tuple[Weights, Plan]:
    """How the weights are held and how large the context is; unasked they take no memory that the context wants."""
    weights = choose_weights(header, shape, options, on_gpu=_offloads())
    if weights.wide is None or options.widen_weights == "on":
        return weights, _planned(header, weights.held(shape), options, eyes, gpu_share)
    as_stored = _planned(header, shape, options, eyes, gpu_share)
    try:
        plan = _planned(header, weights.held(shape), options, eyes, gpu_share)
    except OutOfMemory:
        return Weights(header), as_stored
    return (weights, plan) if plan == as_stored else (Weights(header), as_stored)


def _offloads() -> bool:
    """Whether llama.cpp was built for graphics cards: it then keeps weights beside them, never in tiles."""
    return bool(library().llama_supports_gpu_offload())


def _planned(header: GgufHeader, shape: Shape, options: LlamaCppOptions, eyes: Choice, gpu_share: float) -> Plan:
    """The sizes of the context, beside all that is loaded with the model."""
    return plan_context(header, _needs(shape, options, eyes, gpu_share), options, may_be_apart=_may_be_apart(options, eyes, gpu_share))


def _may_be_apart(options: LlamaCppOptions, eyes: Choice, gpu_share: float) -> bool:
    return not gpu_share and eyes.header is None and not options.draft_model


def _needs(shape: Shape, options: LlamaCppOptions, eyes: Choice, gpu_share: float) -> Needs:
    """What the model takes, and the projector and the draft model beside it."""
    beside = TO_COME_BYTES + projector_needs(eyes.header, on_gpu=gpu_share > 0)
    wanted = estimate(shape, options, gpu_share=gpu_share, process_bytes=beside)
    if not options.draft_model:
        return wanted
    path = Path(options.draft_model)
    if not path.is_file() or path.suffix.lower() != ".gguf":
        raise NotFound(f"The draft model {path.name} is no GGUF file that is there; choose another one, or leave draft_model empty.", field="draft_model")
    draft = read_info(path, path.parent)
    if draft.problem:
        raise UnsupportedFormat(f"The draft model: {draft.problem}", field="draft_model")
    shape = held_shape(gguf_shape((read_gguf_header(path, keep_tokens=True),), draft.size_bytes), options, on_gpu=_offloads())
    return together(wanted, estimate(shape, options, gpu_share=gpu_share))


def can_be_apart(model: int, options: LlamaCppOptions, plan: Plan) -> bool:
    """Whether every slot can have a cache of its own.

    Where there is room for the whole context of each, sharing one gains nothing, and every step looks past the tokens of all other slots: that
    took a tenth to a quarter of the time (`docs/lab-notes.md`). Sliding windows and states stay together, and many slots with a draft model: what that
    has read stands in slots of its own, so none of them can change places.
    """
    binding = library()
    has_state = binding.llama_model_is_recurrent(model) or binding.llama_model_is_hybrid(model)
    is_possible = 1 < options.slots <= (MOST_APART_WITH_DRAFT if options.draft_model else options.slots)
    return is_possible and plan.capacity_tokens >= options.slots * plan.context_length and not has_state and not binding.llama_model_n_swa(model)


def _make_runner(
    context: int, model: int, projector: Projector | None, options: LlamaCppOptions, plan: Plan, *, shared: bool
) -> LlamaCppRunner:
    """The runner that owns context, projector and model."""

    def close() -> None:
        if projector is not None:
            projector.close()
        library().llama_model_free(model)

    if projector is None:
        return LlamaCppRunner(context, model, options, plan.context_length, on_close=close, shared=shared)
    return VisionRunner(context, model, options, plan.context_length, on_close=close, projector=projector)


def _open_projector(
    choice: Choice, model: int, options: LlamaCppOptions, progress: Progress, log: NativeLog
) -> tuple[Projector | None, Choice]:
    """The chosen projector, read in; without one that was only found and does not fit."""
    if choice.header is None:
        return None, choice
    progress("Reading the vision projector", None)
    try:
        return Projector(choice.header.path, model, options, log), Choice(choice.header, f"Sees images, through {choice.header.path.name}.")
    except UnsupportedFormat as error:
        if options.mmproj != "auto":
            raise
        return None, Choice(note=without_projector(error))
    finally:
        log.listen()


def _template(header: GgufHeader, tokenizer: LlamaCppTokenizer) -> TemplateSource | None:
    text = header.text("tokenizer.chat_template")
    if not text:
        return None
    eos = header.metadata.get("tokenizer.ggml.eos_token_id")
    return TemplateSource(
        text=text,
        origin="GGUF metadata",
        tool_text=header.text("tokenizer.chat_template.tool_use"),
        bos_token=tokenizer.token_text(tokenizer.bos_id),
        eos_token=tokenizer.token_text(eos if isinstance(eos, int) else None),
    )


def _make_context(model: int, options: LlamaCppOptions, plan: Plan, name: str, log: NativeLog, *, shared: bool) -> int:
    binding = library()
    params = binding.llama_context_default_params()
    vocab_size = int(binding.llama_vocab_n_tokens(binding.llama_model_get_vocab(model)))
    params.n_ctx = plan.capacity_tokens
    params.n_batch, params.n_ubatch = options.batch_tokens, options.computed_tokens
    params.n_seq_max = options.slots
    params.n_outputs_max = most_outputs(vocab_size, options)
    params.kv_unified = shared  # one cache for all slots, or one for each
    params.no_perf = True
    params.pooling_type = binding.LLAMA_POOLING_TYPE_NONE  # vectors are pooled outside
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
    params.type_k = params.type_v = {"f16": 1, "q8_0": 8, "q4_0": 2}[options.kv_type]
    params.offload_kqv = options.offload_kqv
    params.rope_freq_base = options.rope_freq_base
    params.rope_freq_scale = options.rope_freq_scale
    params.n_threads = options.threads or usable_cores()
    params.n_threads_batch = options.threads_batch or usable_cores()
    context = binding.llama_init_from_model(model, params)
    if not context:
        raise refusal(name, log, options)
    return int(context)
