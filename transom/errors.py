"""One exception tree for the whole project.

    TransomError
    ├── ConfigError                  a settings file, flag or model config breaks a rule; said before serving starts
    │   └── UnsupportedModelError    the model needs something that is not implemented; names it
    ├── WeightsError                 a weight file is damaged, or a tensor is missing, unexpected or of a wrong shape
    ├── TokenizerError               tokenizer files are damaged or unusable
    ├── RequestError                 the caller's fault; carries `param` and `code`; nothing was done
    │   ├── ContextLengthExceededError   prompt + completion do not fit the context window
    │   ├── BudgetExceededError          the request can never fit the KV budgets
    │   ├── TemplateError                the chat template refused the messages
    │   └── ModelNotFoundError           no served model has this name
    ├── QuotaExceededError           the caller has used up its share; carries limit, scope and `retry_after_seconds`
    ├── UnavailableError             the server's side, passing; carries `retry_after_seconds`
    │   ├── ModelLoadingError
    │   ├── QueueFullError
    │   │   └── KeyQueueFullError        what one API key may have waiting is
    │   ├── EngineRestartingError        the worker died; its requests get this
    │   └── DrainingError
    ├── HubError                     a model hub refuses, cannot be reached, or sent what cannot be trusted
    ├── EngineError                  a request failed inside the engine through no fault of the caller
    └── ChannelError                 a frame between API process and worker is damaged or the peer is gone

Errors cross process borders as plain data: see `transom.engine.channel`. HTTP status codes are not known here: the one
table that maps this tree to status and OpenAI codes is `transom.server.errors`.
"""

from __future__ import annotations


class TransomError(Exception):
    """Base of every error this project raises on purpose. `str(error)` is fit to be shown to its reader."""


class ConfigError(TransomError):
    """A setting breaks a rule. The message names the key, the value and the rule."""


class UnsupportedModelError(ConfigError):
    """The model uses a feature that is not implemented. The message names the feature."""


class WeightsError(TransomError):
    """A weight file cannot be used. The message names file and tensor."""


class TokenizerError(TransomError):
    """Tokenizer files cannot be used. The message names the file."""


class RequestError(TransomError):
    """The request is at fault.

    `param` is the request field at fault (or None), `code` the machine-readable reason in OpenAI's vocabulary.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextLengthExceededError(RequestError):
    """Prompt plus completion exceed the context window; all the numbers are attributes, in tokens."""

    def __init__(
        self, *, num_prompt_tokens: int, max_tokens: int, context_window: int, param: str, remark: str = ""
    ) -> None:
        requested = num_prompt_tokens + max_tokens
        parts = f"{num_prompt_tokens} in the {param}" + (f", {max_tokens} in the completion" if max_tokens else "")
        way_out = "shorten the input" + (" or lower max_tokens" if num_prompt_tokens < context_window else "")
        super().__init__(
            f"This model's maximum context length is {context_window} tokens. "
            f"However, you requested {requested} tokens ({parts}). "
            f"The request exceeds the available context size; {way_out}." + remark,
            param=param,
            code="context_length_exceeded",
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.max_tokens = max_tokens
        self.context_window = context_window


class BudgetExceededError(RequestError):
    """The request can never fit the KV budgets, however idle the server. The message names tokens, bytes, budgets."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="kv_budget_exceeded")


class TemplateError(RequestError):
    """The chat template refused or failed to render the messages."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="messages", code="invalid_value")


class ModelNotFoundError(RequestError):
    """No served model has the requested name."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(
            f"The model '{name}' does not exist. Served models: {', '.join(known) or 'none'}.",
            param="model",
            code="model_not_found",
        )


class QuotaExceededError(TransomError):
    """A request would break a limit of its key's quota; the same request fits `retry_after_seconds` later.

    `limit` is the setting that says so and `scope` whose it is (`tier gold`, `model tiny`). `is_daily`: no program
    should wait for it.
    """

    def __init__(self, message: str, *, limit: str, scope: str, retry_after_seconds: float, is_daily: bool) -> None:
        super().__init__(message)
        self.limit = limit
        self.scope = scope
        self.retry_after_seconds = retry_after_seconds
        self.is_daily = is_daily


class UnavailableError(TransomError):
    """The server cannot take the request at the moment; the same request may succeed `retry_after_seconds` later."""

    code = "server_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ModelLoadingError(UnavailableError):
    """The model is not ready yet, or failed to load."""

    code = "model_loading"


class QueueFullError(UnavailableError):
    """The waiting queue of the model is full."""

    code = "queue_full"


class KeyQueueFullError(QueueFullError):
    """As many requests of the caller's key are waiting as may be."""

    code = "rate_limit_exceeded"


class EngineRestartingError(UnavailableError):
    """The model's worker process died; it is being restarted."""

    code = "engine_restarting"


class DrainingError(UnavailableError):
    """The server is shutting down and takes no new requests."""

    code = "server_draining"


class HubError(TransomError):
    """A model cannot be fetched from a hub. The message names the hub's model or file, and what to do."""


class EngineError(TransomError):
    """A request failed inside the engine. The message is safe to show; the details are in the log."""


class ChannelError(TransomError):
    """The connection between API process and worker broke or carried a damaged frame."""
