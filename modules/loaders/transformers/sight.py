"""The images of an image-text model of transformers: files to positions of a prompt, and to what the model reads there.

Knows the library's way to look at images and image files; knows no slots and no text around an image. Two threads call it: the one that makes
prompts, and the engine's, which must never wait for an image that another prompt has to look at.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import AppError, InvalidRequest, OutOfMemory
from modules.core.model import ImageToken
from modules.loaders.image_memory import ImageMemory, images_of
from modules.loaders.images import Pixels, read_image
from modules.loaders.transformers.network import Network, step_error

Value = TypeVar("Value")

MOST_TOKENS = 4096  # of an image, where no option says otherwise
SHRINKS = 4  # tries to make an image smaller
AROUND = (("vision_start_token_id", "vision_end_token_id"), ("image_start_token_id", "image_end_token_id"))
WHOLE = frozenset({"gemma3", "shieldgemma2"})  # kinds where the tokens of an image see each other, so none of them can wait for the next step


class ImagePart:
    """Neighbouring positions of an image: `n_tokens` ids from `first` on, `n_positions` positions of the model."""

    __slots__ = ("begin", "first", "grid", "n_positions", "n_tokens")

    def __init__(self, first: int, begin: int, n_tokens: int, n_positions: int, grid: NDArray[np.int64] | None) -> None:
        self.first = first
        self.begin = begin  # the place of its first in what the model reads at the image
        self.n_tokens = n_tokens
        self.n_positions = n_positions
        self.grid = grid  # [axes, n_tokens] positions from its first on; None: one after the other


class SeenImage:
    """An image file and what stands for it in a prompt. Alive as long as its ids are, or while it is kept."""

    def __init__(self, file: bytes, token_ids: Sequence[int], chunks: Sequence[ImagePart], image_token: int) -> None:
        self.file = file
        self.chunks = chunks
        self._token_ids = token_ids
        self._image_token = image_token

    def ids(self) -> list[int]:
        """The positions of a prompt; each holds the image, which does not hold them."""
        tokens: list[int] = []
        part = 0
        for is_image, run in groupby(self._token_ids, lambda token: token == self._image_token):
            if not is_image:
                tokens += run
                continue
            chunk = self.chunks[part]
            for number in range(chunk.first, chunk.first + chunk.n_tokens):
                token = ImageToken(number)
                token.image, token.part = self, part
                tokens.append(token)
            part += 1
        return tokens


class Sight:
    """Looks at images for one model, through its own processor and tower."""

    def __init__(self, network: Network, processor: Any, most_tokens: int = 0) -> None:
        self._network = network
        self._processor: Any = processor
        config = network.model.config
        self.image_token = int(config.image_token_id)
        self.is_whole = config.model_type in WHOLE
        self._around = _around(config, network.vocab_size)
        self._most_tokens = most_tokens or MOST_TOKENS
        self._next = max(network.vocab_size, self.image_token + 1)
        self._wanted = frozenset(inspect.signature(network.model.get_image_features).parameters)
        self._memory: ImageMemory[SeenImage, tuple[Any, ...]] = ImageMemory()
        self._prepared: tuple[SeenImage, dict[str, Any]] | None = None  # the newest, which is mostly looked at next
        self._is_list = True  # how this kind hands over what it reads

    def image_ids(self, file: bytes) -> list[int]:
        """The ids of an image file, see `ImageReader`."""
        return self._memory.picture(file, self._new_image).ids()

    def look(self, token_ids: Sequence[int]) -> None:
        """Look at those images that were not looked at lately."""
        for picture in images_of(token_ids):
            self.features(picture)

    def features(self, picture: SeenImage) -> tuple[Any, ...]:
        """What the model reads at the tokens of an image: tensors [tokens, width], one more for each deeper layer that it reaches into."""
        return self._memory.read(picture, self._looked)

    def handed(self, tensors: Sequence[Any]) -> Any:
        """What was read at the images of a step, as the model's own code hands it over."""
        from types import SimpleNamespace

        first, *deeper = tensors
        return SimpleNamespace(pooler_output=[first] if self._is_list else first, deepstack_features=[[each] for each in deeper])

    def plain_logits(self, file: bytes, before: Sequence[int], behind: Sequence[int]) -> Any:
        """Logits after a prompt with one image by a plain pass of the library, which nothing of ours takes part in but the tokens around the image."""
        inputs, network = self._inputs(file), self._network
        start, end = self._around_of(inputs["input_ids"][0].tolist())
        torch = network.torch
        framed = ([*before, *start], [*end, *behind])
        words = [torch.tensor([ids], dtype=torch.long, device=network.device) for ids in framed]
        given = {name: value for name, value in inputs.items() if name != "input_ids"}
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in given:
                filler = torch.ones_like if name == "attention_mask" else torch.zeros_like
                given[name] = torch.cat([filler(words[0]), given[name], filler(words[1])], dim=1)
        with torch.inference_mode():
            logits = network.model(input_ids=torch.cat([words[0], inputs["input_ids"], words[1]], dim=1), **given).logits[0, -1]
        inner: Any = getattr(network.model, "model", None)
        if hasattr(inner, "rope_deltas"):
            inner.rope_deltas = None  # the library would count the next text on from this image
        return logits

    def forget(self) -> None:
        """Look anew at every image: the model is another one now."""
        self._memory.forget()

    def close(self) -> None:
        """Let go of what was read; a second call does nothing."""
        with self._memory.lock:
            self._processor = self._prepared = None
        self._memory.forget()

    # ---- one image -------------------------------------------------------------------------------------------------

    def _new_image(self, file: bytes) -> SeenImage:
        with self._memory.using:
            inputs = self._inputs(file)
            ids = [int(token) for token in inputs["input_ids"][0]]
            start, end = self._around_of(ids)
            ids = [*start, *ids, *end]
            chunks = self._parts(ids, inputs)
            picture = SeenImage(file, ids, chunks, self.image_token)
            with self._memory.lock:
                self._prepared = (picture, inputs)
        return picture

    def _around_of(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        start, end = self._around
        return ([], []) if start and start[0] in ids else (start, end)

    def _parts(self, ids: list[int], inputs: dict[str, Any]) -> list[ImagePart]:
        grid = self._grid(ids, inputs)
        chunks: list[ImagePart] = []
        place = begin = 0
        for is_image, run in groupby(ids, lambda token: token == self.image_token):
            count = len(list(run))
            if is_image:
                own, positions = None, count
                if grid is not None:  # there is one word before the image
                    base = int(grid[0, place]) + 1
                    own, positions = grid[:, place + 1 : place + 1 + count] - base, int(grid[0, place + 1 + count]) - base
                chunks.append(ImagePart(self._next, begin, count, positions, own))
                self._next += count
                begin += count
            place += count
        return chunks

    def _grid(self, ids: list[int], inputs: dict[str, Any]) -> NDArray[np.int64] | None:
        """Positions [axes, 1 + ids + 1] between two words, where this kind of model counts them in several directions."""
        rope_index = getattr(getattr(self._network.model, "model", None), "get_rope_index", None)
        if rope_index is None:
            return None
        torch, word = self._network.torch, 0 if self.image_token else 1
        framed = torch.tensor([[word, *ids, word]], device=self._network.device)
        asked = {name: value for name, value in inputs.items() if name in inspect.signature(rope_index).parameters and name != "attention_mask"}
        asked |= {"input_ids": framed, "mm_token_type_ids": (framed == self.image_token).int()}
        positions, _ = rope_index(**asked)
        return np.asarray(positions[:, 0].cpu().numpy(), np.int64)

    def _inputs(self, file: bytes) -> dict[str, Any]:
        """The image as the tower takes it, and the tokens that stand for it; made smaller until those are few enough, if they depend on its size."""
        pixels = read_image(file)
        inputs = self._processed(pixels)
        for _ in range(SHRINKS):
            count = int((inputs["input_ids"] == self.image_token).sum())
            if count <= self._most_tokens:
                break
            scale = 0.95 * math.sqrt(self._most_tokens / count)
            pixels = _smaller(pixels, scale)
            inputs = self._processed(pixels)
        return inputs

    def _processed(self, pixels: Pixels) -> dict[str, Any]:
        from PIL import Image

        processor = self._processor
        if processor is None:
            raise AppError("This model was unloaded; load it again.")
        image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
        backend = getattr(processor.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.encode_special_tokens = False  # an earlier text may have been read without special tokens
        try:
            found = processor(images=[image], text=[processor.image_token], add_special_tokens=False, return_tensors="pt")
        except MemoryError as error:
            raise OutOfMemory("There is no memory left to prepare an image; send a smaller one, or unload other models.") from error
        except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            raise InvalidRequest(f"This model cannot take an image of {pixels.width} × {pixels.height} pixels; send one of another size.", field="messages") from error
        return {name: self._moved(value) for name, value in found.items()}

    def _moved(self, value: Any) -> Any:
        if not hasattr(value, "is_floating_point"):
            return value
        return value.to(self._network.device, self._network.dtype if value.is_floating_point() else value.dtype)

    def _looked(self, picture: SeenImage) -> tuple[Any, ...]:
        network, prepared = self._network, self._prepared
        if network.model is None:
            raise AppError("This model was unloaded; load it again.")
        inputs = prepared[1] if prepared is not None and prepared[0] is picture else self._inputs(picture.file)
        try:
            with network.torch.inference_mode():
                read = network.model.get_image_features(**{name: inputs[name] for name in inputs if name in self._wanted}, return_dict=True)
                tensors = [self._joined(read.pooler_output), *(self._joined(each) for each in getattr(read, "deepstack_features", None) or ())]
        except RuntimeError as error:
            raise step_error(error) from error
        with self._memory.lock:
            if self._prepared is not None and self._prepared[0] is picture:
                self._prepared = None
        wanted = sum(chunk.n_tokens for chunk in picture.chunks)
        if any(len(tensor) != wanted for tensor in tensors):
            raise AppError(f"The model reads {len(tensors[0])} places at an image that has {wanted}; its processor_config.json is for another model.")
        self._is_list = not hasattr(read.pooler_output, "shape")
        return tuple(tensors)

    def _joined(self, value: Any) -> Any:
        """One tensor [tokens, width] of what a tower reads at the parts of an image."""
        if not hasattr(value, "shape"):
            value = self._network.torch.cat([self._joined(each) for each in value])
        return value.reshape(-1, value.shape[-1]).to(self._network.dtype)


def _around(config: Any, vocab_size: int) -> tuple[list[int], list[int]]:
    """The tokens that templates of this kind of model write before and behind an image."""
    for names in AROUND:
        start, end = (getattr(config, name, None) for name in names)
        if isinstance(start, int) and isinstance(end, int) and 0 <= start < vocab_size and 0 <= end < vocab_size:
            return [start], [end]
    return [], []


def _smaller(pixels: Pixels, scale: float) -> Pixels:
    from PIL import Image

    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
    small = image.resize((max(1, int(pixels.width * scale)), max(1, int(pixels.height * scale))), Image.Resampling.BICUBIC)
    return Pixels(small.width, small.height, small.tobytes())
