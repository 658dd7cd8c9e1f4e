"""The registry: which models are served, under which names, by which workers, and how they fare."""

from transom.registry.model_registry import FailedModel, ModelRegistry
from transom.registry.model_slot import ModelSlot, SlotState
from transom.registry.served_model import Engine, ModelState, ServedModel

__all__ = ["Engine", "FailedModel", "ModelRegistry", "ModelSlot", "ModelState", "ServedModel", "SlotState"]
