"""The flags of the commands, as plain data and as typer declarations. Both vLLM's and llama.cpp's spellings.

Every flag of `transom serve` has an environment variable `TRANSOM_<NAME>`; the command line wins over it, it wins over
the registry file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from transom.request import CacheStrategy


class KVDtype(StrEnum):
    """Element types of the KV cache."""

    AUTO = "auto"
    """As the registry says, which is f16 unless it says otherwise. Becomes None before anybody sees it."""
    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


class Quantization(StrEnum):
    """To what weights are quantised at load."""

    NONE = "none"
    """As the registry says. Becomes None before anybody sees it."""
    Q8_0 = "q8_0"
    Q4_K = "q4_k"


class GgufRecipe(StrEnum):
    """Which tensor types `transom convert` writes."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q6_K = "Q6_K"
    Q4_K = "Q4_K"
    Q4_K_M = "Q4_K_M"


class LogFormat(StrEnum):
    """How a line of the log looks."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the command line says about models; None = nothing."""

    model: str | None = None
    config: Path | None = None
    served_model_name: str | None = None
    max_model_len: int | None = None
    sliding_window: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_dtype: KVDtype | None = None
    kv_cache_ram_mb: int | None = None
    max_ram_mb: int | None = None
    max_ssd_mb: int | None = None
    ssd_path: Path | None = None
    hot_tokens: int | None = None
    enable_prefix_cache: bool | None = None
    cache_strategy: CacheStrategy | None = None
    window_size: int | None = None
    keep_first: int | None = None
    max_draft_tokens: int | None = None
    quantization: Quantization | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says about the server; None = nothing."""

    host: str | None = None
    port: int | None = None
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    default_model: str | None = None
    max_output_tokens: int | None = None
    allow_unknown_fields: bool = False
    page: bool = True
    allow_prompt_logprobs: bool = False
    ping_interval: float = 10.0
    shutdown_timeout: float = 30.0
    admin_socket: Path | None = None
    otlp_endpoint: str | None = None


def _model_decides(value: int | None) -> int | None:
    """0 is another way to say nothing."""
    return value or None


def _registry_decides(value: KVDtype | None) -> KVDtype | None:
    return None if value is KVDtype.AUTO else value


def _checkpoint_decides(value: Quantization | None) -> Quantization | None:
    return None if value is Quantization.NONE else value


def directory(text: str) -> Path:
    """~ is the home directory, also where no shell sees it (`--ssd-path=~/x`). An empty text, such as a shell variable
    that is not set, would be the current directory: refused."""
    if not text:
        raise typer.BadParameter("the path is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise typer.BadParameter(f"{text} has the ~ of nobody who has a home directory") from None


Model = Annotated[
    str | None,
    typer.Argument(
        help="Hugging Face directory, GGUF file, or the id of a bundled model. Nothing: all bundled models.",
        show_default=False,
    ),
]
ModelFlag = Annotated[str | None, typer.Option("--model", "-m", envvar="TRANSOM_MODEL", help="The same, as a flag.")]
Config = Annotated[Path | None, typer.Option(envvar="TRANSOM_CONFIG", help="Registry file: models and budgets.")]
ServedModelName = Annotated[
    str | None,
    typer.Option("--served-model-name", "--alias", "-a", envvar="TRANSOM_SERVED_MODEL_NAME", help="Name in requests."),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        "--ctx-size",
        "-c",
        min=0,
        callback=_model_decides,
        envvar="TRANSOM_MAX_MODEL_LEN",
        help="Lower the context window; 0: the model's own.",
    ),
]
SlidingWindow = Annotated[
    int | None, typer.Option(min=1, envvar="TRANSOM_SLIDING_WINDOW", help="Narrow the attention window.")
]
MaxNumSeqs = Annotated[
    int | None,
    typer.Option(
        "--max-num-seqs", "--parallel", "-np", min=1, envvar="TRANSOM_MAX_NUM_SEQS", help="Sequences in one step."
    ),
]
MaxNumBatchedTokens = Annotated[
    int | None,
    typer.Option(
        "--max-num-batched-tokens",
        "--batch-size",
        "-b",
        min=1,
        envvar="TRANSOM_MAX_NUM_BATCHED_TOKENS",
        help="Tokens in one step.",
    ),
]
KVCacheDtype = Annotated[
    KVDtype | None,
    typer.Option(
        "--kv-cache-dtype",
        "-ctk",
        callback=_registry_decides,
        envvar="TRANSOM_KV_CACHE_DTYPE",
        help="Element type of the KV cache; auto: f16, or what the registry file says.",
    ),
]
KVCacheRam = Annotated[
    int | None,
    typer.Option("--kv-cache-ram-mb", min=1, envvar="TRANSOM_KV_CACHE_RAM_MB", help="Hard cap for KV in RAM, in MiB."),
]
MaxRam = Annotated[
    int | None,
    typer.Option("--max-ram-mb", min=1, envvar="TRANSOM_MAX_RAM_MB", help="Hard cap for a model's process, in MiB."),
]
MaxSSD = Annotated[
    int | None,
    typer.Option("--max-ssd-mb", min=0, envvar="TRANSOM_MAX_SSD_MB", help="Hard cap for KV on SSD, in MiB; 0: none."),
]
SSDPath = Annotated[
    Path | None,
    typer.Option(
        "--ssd-path",
        parser=directory,
        metavar="<path>",
        envvar="TRANSOM_SSD_PATH",
        help="Directory for KV on SSD; --max-ssd-mb needs it.",
    ),
]
HotTokens = Annotated[
    int | None, typer.Option(min=1, envvar="TRANSOM_HOT_TOKENS", help="Tokens of one sequence in RAM, at most.")
]
PrefixCache = Annotated[
    bool | None,
    typer.Option(
        "--enable-prefix-cache/--no-enable-prefix-cache",
        envvar="TRANSOM_ENABLE_PREFIX_CACHE",
        help="Keep KV for later requests that begin alike [on].",
        show_default=False,
    ),
]
Strategy = Annotated[
    CacheStrategy | None,
    typer.Option("--cache-strategy", envvar="TRANSOM_CACHE_STRATEGY", help="What full attention may forget [full]."),
]
WindowSize = Annotated[
    int | None, typer.Option(min=1, envvar="TRANSOM_WINDOW_SIZE", help="Tokens that strategies with a window keep.")
]
KeepFirst = Annotated[
    int | None, typer.Option(min=0, envvar="TRANSOM_KEEP_FIRST", help="First tokens that keep_first never forgets.")
]
MaxDraftTokens = Annotated[
    int | None,
    typer.Option(
        "--max-draft-tokens",
        "--draft-max",
        min=0,
        max=32,
        envvar="TRANSOM_MAX_DRAFT_TOKENS",
        help="Tokens that are guessed at once, at most; 0: none [15].",
    ),
]
WeightQuantization = Annotated[
    Quantization | None,
    typer.Option(
        "--quantization",
        "-q",
        callback=_checkpoint_decides,
        envvar="TRANSOM_QUANTIZATION",
        help="Quantise the weights of a safetensors model at load [as the registry file says, or not at all].",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", "-t", min=1, max=1024, envvar="TRANSOM_THREADS", help="Threads per model [all cores]."),
]
Host = Annotated[str | None, typer.Option(envvar="TRANSOM_HOST", help="Address to listen on [127.0.0.1].")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, envvar="TRANSOM_PORT", help="Port to listen on; 0: any [9632].")
]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option("--api-key", envvar="TRANSOM_API_KEY", help="Key that requests must carry; may be repeated."),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option("--allowed-host", envvar="TRANSOM_ALLOWED_HOST", help="Further name of this server; repeatable."),
]
DefaultModel = Annotated[
    str | None, typer.Option(envvar="TRANSOM_DEFAULT_MODEL", help="Model of requests that name none.")
]
MaxOutputTokens = Annotated[
    int | None, typer.Option(min=1, envvar="TRANSOM_MAX_OUTPUT_TOKENS", help="Clips max_tokens of every request.")
]
AllowUnknownFields = Annotated[
    bool, typer.Option(envvar="TRANSOM_ALLOW_UNKNOWN_FIELDS", help="Ignore unknown request fields; logged once each.")
]
Page = Annotated[bool, typer.Option("--page/--no-page", envvar="TRANSOM_PAGE", help="Serve the web page at /.")]
AllowPromptLogprobs = Annotated[
    bool, typer.Option(envvar="TRANSOM_ALLOW_PROMPT_LOGPROBS", help="Serve the request field prompt_logprobs.")
]
PingInterval = Annotated[
    float,
    typer.Option(
        "--sse-ping-interval", min=0.1, envvar="TRANSOM_SSE_PING_INTERVAL", help="Seconds between pings of a stream."
    ),
]
ShutdownTimeout = Annotated[
    float,
    typer.Option(
        "--shutdown-timeout",
        "--drain-seconds",
        min=0,
        envvar="TRANSOM_SHUTDOWN_TIMEOUT",
        help="Seconds that running answers get at the end.",
    ),
]
OtlpEndpoint = Annotated[
    str | None,
    typer.Option(
        envvar="TRANSOM_OTLP_ENDPOINT",
        help="Collector for traces of requests, by HTTP, as http://localhost:4318 [OTEL_EXPORTER_OTLP_ENDPOINT].",
    ),
]
AdminSocket = Annotated[
    Path | None,
    typer.Option(
        "--admin-socket",
        parser=directory,
        metavar="<path>",
        envvar="TRANSOM_ADMIN_SOCKET",
        help="Unix socket for ps, load, unload and drain [the registry's].",
    ),
]
Level = Annotated[
    LogLevel,
    typer.Option("--log-level", envvar="TRANSOM_LOG_LEVEL", help="How much is logged; info: a line for each request."),
]
Format = Annotated[
    LogFormat,
    typer.Option("--log-format", envvar="TRANSOM_LOG_FORMAT", help="Lines for people, or an object in each line."),
]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Show the settings and where they come from.")]

Prompt = Annotated[
    str | None,
    typer.Argument(
        help="What to continue or answer, after what comes by a pipe; -: the pipe alone; nothing: a conversation.",
        show_default=False,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        "-n",
        "--predict",
        min=-1,
        help="Tokens of an answer, at most [512]; 0 or -1: as many as the context window holds.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", "--temp", min=0, max=2, help="0: always the likeliest token [the model's, or 1]."),
]
TopP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Choose from the likeliest that sum to this [the model's, or 1].")
]
TopK = Annotated[
    int | None,
    typer.Option(min=-1, max=2**31 - 1, help="Choose from so many, 0 or -1: from all [the model's, or 0]."),
]
MinP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Least share of the likeliest's probability [the model's, or 0].")
]
Seed = Annotated[
    int | None, typer.Option(min=-(2**63), max=2**63 - 1, help="The same seed gives the same text [a new one].")
]
History = Annotated[
    bool,
    typer.Option("--history/--no-history", envvar="TRANSOM_HISTORY", help="Remember what is typed, for the next time."),
]
Server = Annotated[
    str | None,
    typer.Option(
        metavar="URL", envvar="TRANSOM_SERVER", help="A running server answers instead of a worker of its own."
    ),
]
ServerKey = Annotated[str | None, typer.Option("--api-key", envvar="TRANSOM_API_KEY", help="Key for the server.")]
