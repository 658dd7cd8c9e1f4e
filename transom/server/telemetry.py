"""FastAPI's own telemetry, switched off: it tells what exceptions quote, which callers have written. See `tracing`."""

from __future__ import annotations

from typing import Any

NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""For `FastAPI(telemetry=)`; versions that have none keep it among their extras and do nothing with it."""
