"""What a request will cost, and what of it an engine may have computed before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

__all__ = ["OutputLengths", "Piece", "Work", "work_of"]

_BYTES_PER_TOKEN = 4.0
_DEFAULT_OUTPUT_TOKENS = 256
_IMAGE_PARTS = frozenset({"image", "image_url", "video_url"})
"""A video that goes to the engine as such is one piece, like an image."""
_TEMPLATE_FIELDS = ("tools", "functions", "documents", "chat_template_kwargs")
"""Fields that a chat template writes before the first message."""
_CONTENT_FIELDS = frozenset({"messages", "prompt", *_TEMPLATE_FIELDS})
_HARMLESS_FIELDS = frozenset(
    {
        "stream",
        "stream_options",
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "request_id",
        "priority",
    }
)
"""Fields that change nothing of what the engine computes."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt that an engine may still have in a cache.

    Attributes:
        digest: of everything that determines the cached values.
        tokens: what it saves to have them.
        images: how many images it holds; they are the next ones of the request, in order.
    """

    digest: bytes
    tokens: int
    images: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """One request, as the router sees it.

    Attributes:
        prompt_tokens, vision_tokens, output_tokens: estimates; the prompt's are those of its text.
        prefix: the conversation, one piece a message; each digest covers all messages up to it
            (images by their content), each `tokens` those of that message alone, images included.
        images: one piece an image; an engine may have its encoding under another prompt too.
        fingerprint: of the whole request, for `Quarantine`; empty: never quarantined.
    """

    prompt_tokens: int = 0
    vision_tokens: int = 0
    output_tokens: int = 0
    prefix: tuple[Piece, ...] = ()
    images: tuple[Piece, ...] = ()
    fingerprint: bytes = b""


class OutputLengths:
    """How many tokens the answers of each model have had: an exponentially weighted mean.

    Args:
        default_tokens: what is expected before the first answer.
        share: of the newest answer in the mean; 0.05 remembers about the last 20.
    """

    def __init__(
        self, *, default_tokens: int = _DEFAULT_OUTPUT_TOKENS, share: float = 0.05
    ) -> None:
        self._default_tokens = default_tokens
        self._share = share
        self._means: dict[str, float] = {}

    def expected_tokens(self, model: str) -> int:
        return max(1, round(self._means.get(model, self._default_tokens)))

    def add(self, model: str, tokens: int) -> None:
        """Notes the length of an answer."""
        mean = self._means.get(model)
        self._means[model] = tokens if mean is None else mean + self._share * (tokens - mean)

    def forget(self, model: str) -> None:
        self._means.pop(model, None)


def work_of(
    body: Mapping[str, Any],
    *,
    image_tokens: Sequence[int],
    image_digests: Sequence[bytes],
    default_output_tokens: int = _DEFAULT_OUTPUT_TOKENS,
    bytes_per_token: float = _BYTES_PER_TOKEN,
    salt: bytes = b"",
) -> Work:
    """The work of an OpenAI chat body (`messages`) or completion body (`prompt`).

    Args:
        body: as the engine gets it; the payload of an image part is never read.
        image_tokens: vision tokens of each image or video, in the order of their parts.
        image_digests: of each image as the model sees it, its size included.
        default_output_tokens: how long an answer is when nothing else is known
            (`OutputLengths.expected_tokens`); the request's own limit only lowers it.
        bytes_per_token: UTF-8 bytes of text a token. Qwen's documentation gives 3-4 English
            characters, or 1.5-1.8 Chinese ones (4.5-5.4 bytes), a token; 4 lies between.
        salt: separates what must not share a cache, such as tenants.

    The estimate only weighs replicas against each other, so a common factor cancels out. Role and
    field names stand for the markers which the template writes around a message.
    """
    assert len(image_tokens) == len(image_digests), "one token count and one digest an image"
    images = tuple(map(Piece, image_digests, image_tokens, [1] * len(image_digests)))
    reader = _Reader(salt, iter(images), bytes_per_token)
    start = {name: body[name] for name in _TEMPLATE_FIELDS if body.get(name) is not None}
    if start:
        reader.note(b"s", _canonical(start))
    prefix = tuple(reader.messages(body))
    vision_tokens = sum(image_tokens)
    return Work(
        prompt_tokens=reader.tokens - vision_tokens,
        vision_tokens=vision_tokens,
        output_tokens=_output_tokens(body, default_output_tokens),
        prefix=prefix,
        images=images,
        fingerprint=reader.fingerprint(body),
    )


class _Reader:
    """Walks through a body once: one running digest, one running count of tokens."""

    def __init__(self, salt: bytes, images: Iterator[Piece], bytes_per_token: float) -> None:
        self._hasher = blake3(salt)
        self._images = images
        self._bytes_per_token = bytes_per_token
        self._text_bytes = 0
        self._vision_tokens = 0
        self._image_count = 0

    @property
    def tokens(self) -> int:
        return self._vision_tokens + round(self._text_bytes / self._bytes_per_token)

    def messages(self, body: Mapping[str, Any]) -> Iterator[Piece]:
        """The pieces of the conversation; none for a batch of prompts, which share no prefix."""
        prompt = body.get("prompt")
        if prompt is not None and not isinstance(prompt, str):
            self.prompts(prompt)
            return
        messages = body.get("messages") or ()
        if prompt is not None:
            messages = ({"content": prompt},)
        for message in messages:
            tokens, images = self.tokens, self._image_count
            self._message(message)
            yield Piece(
                self._hasher.digest(), max(1, self.tokens - tokens), self._image_count - images
            )

    def prompts(self, prompt: Sequence[Any]) -> None:
        """A list of texts, of token ids, or of lists of token ids."""
        for entry in prompt:
            if isinstance(entry, str):
                self.note(b"t", entry.encode("utf-8", "surrogatepass"))
            else:
                ids = entry if isinstance(entry, list) else [entry]
                self._hasher.update(b"p" + _canonical(ids))
                self._text_bytes += round(len(ids) * self._bytes_per_token)

    def note(self, kind: bytes, text: bytes) -> None:
        """Text of the prompt; kind and length keep two neighbours apart in the digest."""
        self._hasher.update(b"%b%d:" % (kind, len(text)))
        self._hasher.update(text)
        self._text_bytes += len(text)

    def fingerprint(self, body: Mapping[str, Any]) -> bytes:
        skipped = _CONTENT_FIELDS | _HARMLESS_FIELDS
        rest = {name: value for name, value in body.items() if name not in skipped}
        self._hasher.update(b"f" + _canonical(rest))
        return self._hasher.digest()

    def _message(self, message: Mapping[str, Any]) -> None:
        content = message.get("content")
        frame = {name: value for name, value in message.items() if name != "content"}
        if frame.keys() == {"role"}:
            self.note(b"m", str(frame["role"]).encode("utf-8", "surrogatepass"))
        else:
            self.note(b"m", _canonical(frame))
        if isinstance(content, str):
            self.note(b"t", content.encode("utf-8", "surrogatepass"))
            return
        for part in content or ():
            self._part(part)

    def _part(self, part: Mapping[str, Any]) -> None:
        kind, text = part.get("type"), part.get("text")
        if kind in _IMAGE_PARTS:
            image = next(self._images)
            self._hasher.update(b"i%d:" % len(image.digest))
            self._hasher.update(image.digest)
            self._vision_tokens += image.tokens
            self._image_count += 1
        elif kind == "text" and isinstance(text, str):
            self.note(b"t", text.encode("utf-8", "surrogatepass"))
        else:
            self.note(b"o", _canonical(part))


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=repr, separators=(",", ":")).encode()


def _output_tokens(body: Mapping[str, Any], expected_tokens: int) -> int:
    limits = (body.get("max_tokens"), body.get("max_completion_tokens"))
    tokens = min([expected_tokens, *(limit for limit in limits if isinstance(limit, int))])
    count = body.get("n")
    return max(0, tokens) * (count if isinstance(count, int) else 1)
