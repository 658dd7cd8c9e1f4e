"""What the routes share, handed to each of them explicitly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from transom.errors import QueueFullError, QuotaExceededError, RequestError
from transom.metrics import UNKNOWN_MODEL, MetricsCollector
from transom.quotas import KVDemand, QuotaLedger
from transom.registry import ModelRegistry, ServedModel
from transom.server.caller import Caller, caller_of
from transom.server.gate import Gate
from transom.server.interruption import run_watched
from transom.server.large_bodies import LargeBodies
from transom.server.lifecycle import Lifecycle
from transom.server.open_requests import OpenRequests
from transom.server.request_record import record_of
from transom.server.settings import ServerSettings
from transom.server.turns import TurnLimits, Turns
from transom.server.until_answered import until_answered


@dataclass(frozen=True, slots=True)
class ServerContext:
    """One server."""

    registry: ModelRegistry
    metrics: MetricsCollector
    settings: ServerSettings
    lifecycle: Lifecycle
    quotas: QuotaLedger
    turns: dict[str, Turns]
    """By the id of the model."""
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    large_bodies: LargeBodies = field(default_factory=LargeBodies)

    def find_model(self, body: Mapping[str, Any], request: Request) -> ServedModel:
        """The model that a body names, noted for the metrics; it may have to be loaded first.

        Raises as `named_model`, and `UnavailableError` while the model cannot be asked.
        """
        record = record_of(request)
        record.model = UNKNOWN_MODEL
        served = self.named_model(body, request)
        record.model = served.id
        self.lifecycle.check()
        self.registry.check_can_be_asked(served)
        return served

    def check_prompt_logprobs(self, wanted: int | None) -> None:
        """Log probabilities of prompts take more than others give for a request: an operator has to allow them."""
        if wanted is not None and not self.settings.allow_prompt_logprobs:
            raise RequestError(
                "'prompt_logprobs' is switched off on this server (transom serve --allow-prompt-logprobs).",
                param="prompt_logprobs",
                code="unsupported_parameter",
            )

    def gate(self, served: ServedModel, request: Request) -> Gate:
        """The caller's way to the model, and a place in its queue.

        Raises before any work is done: `QuotaExceededError` when not even the smallest request would be let in,
        `QueueFullError` when too many are waiting.
        """
        caller, turns = caller_of(request), self._turns_at(served)
        self._check_quota(caller, served)
        place = turns.arrive(caller.name)
        until_answered(request).callback(place.leave)
        return Gate(caller, served, self.quotas, turns, place, self.open_requests)

    def check_room(self, request: Request) -> None:
        """Asked before a body is read: raises what `gate` would if all the models that the caller may use refuse."""
        caller, refusal = caller_of(request), None
        served_models = self.registry.models(caller.may_use)
        for served in served_models:
            try:
                self._check_quota(caller, served)
                self._turns_at(served).check(caller.name)
            except (QuotaExceededError, QueueFullError) as error:
                refusal = refusal or error
            else:
                return
        if refusal is not None:
            record_of(request).model = served_models[0].id if len(served_models) == 1 else UNKNOWN_MODEL
            raise refusal

    def _check_quota(self, caller: Caller, served: ServedModel) -> None:
        """Of the smallest request that there is."""
        kv = None
        if self.quotas.limits_kv(caller.tier, served.id):
            sizes = served.kv_sizes
            kv = KVDemand(sizes.smallest, sizes.room)
        self.quotas.check(caller.name, caller.tier, served.id, kv)

    def _turns_at(self, served: ServedModel) -> Turns:
        if served.id not in self.turns:
            engine = served.engine_config
            limits = TurnLimits(
                max_running=engine.max_num_seqs,
                max_waiting=engine.max_num_waiting,
                max_waiting_per_key=self.settings.max_waiting_per_key,
                max_waiting_tokens=engine.waiting_token_limit,
            )
            self.turns[served.id] = Turns(limits)
        return self.turns[served.id]

    async def until_limits_are_known(self, served: ServedModel, request: Request) -> None:
        """Waits for the first load of a model: what its budgets hold is known only then.

        Raises `UnavailableError` when it cannot be loaded, `ClientDisconnect` when nobody waits any more.
        """
        if served.engine.report is None:
            with self.lifecycle.answering():
                await run_watched(self.registry.until_loaded(served), request.receive, self.lifecycle)

    def named_model(self, body: Mapping[str, Any], request: Request) -> ServedModel:
        """The model that a body names, whatever its state; the only one, if that is what there is, when it names none.

        What the caller may not use does not exist for it. Raises `RequestError` for an unknown one, and for none where
        there are several to choose from.
        """
        caller = caller_of(request)
        name = body.get("model")
        name = self.settings.default_model if name is None else name
        if name is None:
            return self._only_model(caller)
        if not isinstance(name, str):
            raise RequestError("Invalid value for 'model': must be a text.", param="model")
        return self.registry.get(name, caller.may_use)

    def _only_model(self, caller: Caller) -> ServedModel:
        served = self.registry.models(caller.may_use)
        if len(served) < 2:
            return self.registry.first(caller.may_use)
        names = ", ".join(model.id for model in served)
        raise RequestError(
            f"Missing required parameter: 'model'. Served models: {names}.", param="model", code="missing_parameter"
        )
