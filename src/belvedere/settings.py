"""One frozen `Settings`: flags > environment > TOML file > defaults.

Every setting is read from ``BELVEDERE_<NAME>``; the names that the VLM-server document made
public (`UNPREFIXED`) are read without the prefix too. An unknown ``BELVEDERE_*`` variable or file
key is an error at start-up, so that a misspelt setting never goes unnoticed.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from belvedere.errors import SettingsError

__all__ = [
    "ENVIRONMENT_ONLY",
    "UNPREFIXED",
    "KeySettings",
    "Settings",
    "Upstream",
    "load_settings",
    "origins",
    "with_changes",
]

PREFIX = "BELVEDERE_"

UNPREFIXED: dict[str, str] = {
    "GPU_COUNT": "gpu_count",
    "MAX_MODEL_LENGTH": "max_model_len",
    "MAX_IMAGE_SIZE": "max_image_size",
    "MAX_IMAGES_PER_REQUEST": "max_images_per_request",
    "ALLOW_REMOTE_IMAGES": "allow_remote_images",
    "MAX_BATCH_SIZE": "max_batch_size",
    "BATCH_TIMEOUT_MS": "batch_timeout_ms",
    "TOP_K_DEFAULT": "top_k_default",
    "REPETITION_PENALTY_DEFAULT": "repetition_penalty_default",
    "MAX_NEW_TOKENS_DEFAULT": "max_new_tokens_default",
    "API_KEY": "api_key",
}
"""Environment names of the VLM-server document -> field of `Settings`; the prefix is optional."""

ENVIRONMENT_ONLY = frozenset(
    {
        "BELVEDERE_CONFIG",
        "BELVEDERE_ENGINE_KEY",
        "BELVEDERE_TRACEBACK",
        "BELVEDERE_URL",
        "BELVEDERE_VLLM_PYTHON",
    }
)
"""``BELVEDERE_*`` variables that are no settings of the server."""

Bytes = Annotated[int, Field(gt=0)]
BytesOrOff = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
ParserName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Upstream(BaseModel):
    """A server of the OpenAI protocol that runs elsewhere; in TOML a ``[[upstreams]]`` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(pattern=r"^https?://[^/\s@]+(/[^@]*)?$", description="With or without /v1.")
    api_key: SecretStr | None = Field(None, min_length=1, description="Its bearer key.")
    models: dict[Name, Name] | None = Field(
        None, description="Served name -> its name there; all of its models when unset."
    )


class KeySettings(BaseModel):
    """One API key; in TOML an ``[[api_keys]]`` table. ``belvedere key`` writes one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = Field(description="For logs and metrics.")
    key: SecretStr = Field(
        min_length=8, description="Its digest, ``sha256:`` and 64 hex digits, or the key itself."
    )
    role: Literal["user", "admin"] = Field("user", description="admin may load and unload models.")
    max_concurrency: Count | None = Field(None, description="Requests at once; the rest wait.")
    requests_per_minute: Count | None = Field(None, description="More are refused with 429.")
    priority: int = Field(0, description="Of its requests; lower numbers go first.")

    @field_validator("key")
    @classmethod
    def _digest(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text.startswith("sha256:") and not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", text):
            raise ValueError("a digest is sha256: and 64 hex digits")
        return value


class Settings(BaseModel):
    """What `belvedere serve` runs with. Units are in the names; ``None`` means unset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    model_path: str | None = Field(
        None, description="Model folder; the shipped mini model when unset."
    )
    served_model_name: str | None = Field(
        None, min_length=1, description="Name clients use; the folder's name when unset."
    )
    no_model: bool = Field(False, description="Start without a model; load them at run time.")
    aliases: dict[Name, Name] = Field(
        default_factory=dict, description="Further names of models: alias -> served name."
    )
    replicas: Count | None = Field(
        None, description="Engines that share the load; one per group of GPUs when unset."
    )
    gpu_count: Count | None = Field(None, description="GPUs to use, from index 0; 1 when unset.")
    gpu_ids: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="GPU indices to use, instead of gpu_count."
    )
    upstreams: tuple[Upstream, ...] = Field(
        (), description="URLs of other OpenAI-compatible servers whose models are served too."
    )
    upstream_api_key: SecretStr | None = Field(
        None, min_length=1, description="Bearer key of the upstreams that have none of their own."
    )
    engine: Literal["auto", "local", "vllm"] = Field(
        "auto",
        description="What computes: vLLM, or the embedded engine (local). auto takes vLLM for GPUs "
        "where it is installed.",
    )
    engine_python: str | None = Field(
        None, min_length=1, description="Python of an environment with vLLM, instead of ours."
    )
    ladder: bool = Field(
        True, description="Start vLLM again with less where it says that memory lacks."
    )
    load_format: Literal["auto", "dummy"] = Field(
        "auto", description="dummy: random weights of the model's shape, to try a plan (vLLM)."
    )
    strict_actions: bool = Field(
        False,
        description="Groundings and steps of agents can only be answered by an action (vLLM).",
    )
    tool_call_parser: ParserName | None = Field(
        None,
        description="vLLM's parser of tool calls; that of the model's family when unset; none.",
    )
    reasoning_parser: ParserName | None = Field(
        None, description="vLLM's parser of thoughts; that of a thinking model when unset; none."
    )
    upstream_poll_s: Seconds = Field(5.0, description="Between two looks at an upstream's models.")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the weights."
    )
    trust_remote_code: bool = Field(False, description="Run code that comes with the model folder.")
    max_model_len: int | None = Field(
        None, ge=1, description="Context in tokens; the model's own when unset."
    )
    tensor_parallel_size: Count = Field(
        1, description="GPUs that share the model; the embedded engine uses one device."
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Share of a GPU's memory the engine may take; no effect on the CPU."
    )
    quantization: str | None = Field(
        None, description="awq, gptq, fp8 or bitsandbytes; must be what the folder was saved with."
    )
    max_batch_size: Count | None = Field(
        None, description="Sequences the embedded engine computes in turns; 1 when unset."
    )
    batch_timeout_ms: Annotated[float, Field(ge=0, le=10_000)] = Field(
        0.0,
        description="An idle embedded engine waits so long for more requests to start with the "
        "first, unless max_batch_size of them are there.",
    )
    api_key: SecretStr | None = Field(
        None, min_length=1, description="Bearer key that clients must send."
    )
    api_keys: tuple[KeySettings, ...] = Field(
        (), description="Further keys with roles and limits; a list of tables in the file."
    )
    allowed_hosts: tuple[Name, ...] = Field(
        (), description="Names that requests may have in their Host header, besides loopback."
    )
    cors_origins: tuple[Name, ...] = Field(
        (), description="Web origins whose pages may use the API; none when unset."
    )
    max_running_per_replica: Count = Field(
        16, description="Requests given to one engine at once; the rest wait in the queue."
    )
    queue_limit: Annotated[int, Field(ge=0)] = Field(
        256, description="Requests that may wait for a model; more are refused with 429."
    )
    insecure: bool = Field(False, description="Allow a bind beyond loopback without a key.")
    allow_remote_images: bool = Field(True, description="Fetch http(s) images of public hosts.")
    max_image_size: int | None = Field(
        None,
        ge=32,
        description="Longest image side in pixels; larger images are shrunk. Off unset.",
    )
    max_images_per_request: Count = Field(10, description="Images in one request.")
    max_video_frames: Count = Field(16, description="Frames sampled from one video.")
    video_fps: Annotated[float, Field(gt=0, le=60)] = Field(
        2.0, description="Frames sampled a second, of requests that name no fps."
    )
    image_cache_bytes: BytesOrOff = Field(
        256 * 1024 * 1024, description="Prepared images remembered, in bytes; 0: none."
    )
    media_bytes: BytesOrOff = Field(
        64 * 1024 * 1024, description="What models saw, kept for GET /v1/media; 0: nothing."
    )
    media_ttl_s: Seconds = Field(900.0, description="How long it is kept for GET /v1/media.")
    max_body_bytes: Bytes = Field(64 * 1024 * 1024, description="Largest request body.")
    top_k_default: int | None = Field(
        None, ge=-1, description="top_k of requests that name none (-1 and 0: off)."
    )
    repetition_penalty_default: float | None = Field(
        None, gt=0, le=10, description="repetition_penalty of requests that name none."
    )
    max_new_tokens_default: int | None = Field(
        None, ge=1, description="max_tokens of requests that name none."
    )
    body_timeout_s: Seconds = Field(
        60.0, description="A client that sends nothing of its request for so long is refused."
    )
    keepalive_s: Seconds = Field(
        15.0, description="A stream without news for so long gets a comment that keeps it open."
    )
    slow_reader_timeout_s: Seconds = Field(
        30.0, description="A client that takes nothing of its stream for so long is dropped."
    )
    first_token_timeout_s: Seconds = Field(300.0, description="Wait for an engine's first byte.")
    inter_token_timeout_s: Seconds = Field(60.0, description="Wait between two stream events.")
    request_timeout_s: Seconds = Field(
        600.0, description="Longest time for an answer that is not streamed."
    )
    start_timeout_s: Seconds = Field(600.0, description="Wait for an engine to be ready.")
    shutdown_grace_s: SecondsOrNone = Field(
        10.0, description="Running requests may finish within this time after SIGTERM."
    )
    fleet: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,40}$",
        description="Name under which a restarted server finds its engines; port-PORT when unset.",
    )
    linger_s: SecondsOrNone = Field(
        30.0, description="How long engines wait for a new server after theirs was killed."
    )
    max_crashes: Annotated[int, Field(ge=0)] = Field(
        5, description="Crashes in a row after which an engine is given up."
    )
    hang_timeout_s: Seconds = Field(
        120.0, description="An engine without progress on its requests for so long is replaced."
    )
    drain_timeout_s: SecondsOrNone = Field(
        60.0,
        description="Running requests may finish within this time when a model is unloaded or "
        "put to sleep.",
    )
    idle_unload_s: Seconds | None = Field(
        None, description="Unload a model after so long without a request; never when unset."
    )
    sleep_mode: bool = Field(
        False, description="Start vLLM so that the model can sleep and give its GPU memory back."
    )
    idle_sleep_s: Seconds | None = Field(
        None,
        description="Put a model with sleep_mode to sleep after so long without a request; never "
        "when unset.",
    )
    engine_log_dir: str | None = Field(
        None, description="Folder of the engines' log files; in the user's state folder when unset."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Detail of the log on stderr."
    )
    access_log: Literal["json", "text", "off"] = Field(
        "json", description="One line a request on stderr: json, text or off."
    )
    metrics_without_key: bool = Field(
        False, description="GET /metrics needs no key, for scrapers that cannot send one."
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/\s@]+(/[^@\s]*)?$",
        description="OTLP/HTTP collector for traces, like http://127.0.0.1:4318; off when unset.",
    )

    @field_validator("aliases", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """``a=b,c=d`` or a sequence of ``a=b``."""
        entries = value.split(",") if isinstance(value, str) else value
        if not isinstance(entries, list | tuple):
            return value
        pairs = [str(entry).partition("=") for entry in entries]
        if any(not separator for _, separator, _ in pairs):
            raise ValueError("write it like alias=model")
        return {alias.strip(): model.strip() for alias, _, model in pairs}

    @field_validator("gpu_ids", mode="before")
    @classmethod
    def _indices(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("upstreams", mode="before")
    @classmethod
    def _urls(cls, value: Any) -> Any:
        entries = value.split(",") if isinstance(value, str) else value
        if not isinstance(entries, list | tuple):
            return value
        return [{"url": entry.strip()} if isinstance(entry, str) else entry for entry in entries]


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str],
    config_path: Path | None = None,
) -> Settings:
    """Merges the sources and validates the result.

    Args:
        flags: command-line values by field name; ``None`` values count as not given.
        environ: the process environment.
        config_path: a TOML file; ``BELVEDERE_CONFIG`` names it when this is ``None``.

    Raises:
        SettingsError: an unknown name, an unreadable file or a value out of range.
    """
    given = _given(flags or {}, environ, config_path)
    try:
        return Settings(**{name: found.value for name, found in given.items()})
    except ValidationError as exc:
        raise _describe(exc) from None


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, and where.

    Attributes:
        origin: ``flag``, the name of the environment variable, or the path of the file.
    """

    value: Any = dataclass_field(repr=False)
    origin: str


def origins(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str],
    config_path: Path | None = None,
) -> dict[str, str]:
    """Field -> where `load_settings` takes its value from (`Given.origin`, or ``default``).

    Raises:
        SettingsError: an unknown name or an unreadable file; values are not checked.
    """
    given = _given(flags or {}, environ, config_path)
    return {
        name: given[name].origin if name in given else "default" for name in Settings.model_fields
    }


def _given(
    flags: Mapping[str, Any], environ: Mapping[str, str], config_path: Path | None
) -> dict[str, Given]:
    """What each source says, the strongest last."""
    if config_path is None and environ.get("BELVEDERE_CONFIG"):
        config_path = Path(environ["BELVEDERE_CONFIG"])
    from_file = _from_file(config_path) if config_path else {}
    said = {name: value for name, value in flags.items() if value is not None}
    return {
        **{name: Given(value, str(config_path)) for name, value in from_file.items()},
        **_from_environment(environ),
        **{name: Given(value, "flag") for name, value in said.items()},
    }


def with_changes(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """`settings` with some values replaced and checked.

    Raises:
        SettingsError: a value is out of range.
    """
    kept = {name: getattr(settings, name) for name in Settings.model_fields}
    try:
        return Settings(**{**kept, **changes})
    except ValidationError as exc:
        raise _describe(exc) from None


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(
            f"The settings file {str(path)!r} cannot be read ({exc.strerror}).",
            remedy="Check --config and BELVEDERE_CONFIG.",
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(
            f"The settings file {str(path)!r} is not TOML: {exc}.", remedy="Correct that line."
        ) from exc
    for name in values:
        if name not in Settings.model_fields:
            raise _unknown(f"key {name!r} in {str(path)!r}", name, list(Settings.model_fields))
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    fields = {field.upper(): field for field in Settings.model_fields}
    values = {
        UNPREFIXED[name]: Given(environ[name], name) for name in UNPREFIXED if environ.get(name)
    }
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in ENVIRONMENT_ONLY:
            continue
        name = variable.removeprefix(PREFIX)
        field = fields.get(name) or UNPREFIXED.get(name)
        if field is None:
            known = [PREFIX + known for known in (*fields, *UNPREFIXED)]
            raise _unknown(f"environment variable {variable!r}", variable, known)
        if value != "":
            values[field] = Given(value, variable)
    return values


def _unknown(what: str, name: str, known: list[str]) -> SettingsError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "Remove it, or see docs/settings.md."
    return SettingsError(f"Unknown {what}.", remedy=hint)


def _describe(exc: ValidationError) -> SettingsError:
    first = exc.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])
    secret = any("api_key" in str(step) for step in first["loc"])
    value = "'***'" if secret else repr(first["input"])
    message = first["msg"].removeprefix("Value error, ").lower()
    meaning = Settings.model_fields[name].description if name in Settings.model_fields else None
    return SettingsError(f"Setting {name} has the value {value}: {message}.", remedy=meaning)
