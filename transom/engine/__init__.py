"""Token ids in, token ids out: the engine loop, the worker process around it, and its client in the API process.

    client -- frames over a socket pair (channel) --> worker -> engine -> scheduler, model runner

The API process imports `EngineClient` and the plain data; model and kernels are loaded by the worker only.
"""

from transom.engine.client import EngineClient, EngineState, EngineStatus
from transom.engine.reports import EngineStats, EngineView, LoadProgress, LoadReport

__all__ = ["EngineClient", "EngineState", "EngineStats", "EngineStatus", "EngineView", "LoadProgress", "LoadReport"]
