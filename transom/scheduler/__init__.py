"""Which tokens are computed next, of which sequences: continuous batching within the budgets. Knows no model."""

from transom.scheduler.output import ScheduledSequence, SchedulerOutput
from transom.scheduler.scheduler import Scheduler
from transom.scheduler.sequence import Sequence, SequenceStatus, TokenBuffer
from transom.scheduler.stats import SchedulerStats

__all__ = [
    "ScheduledSequence",
    "Scheduler",
    "SchedulerOutput",
    "SchedulerStats",
    "Sequence",
    "SequenceStatus",
    "TokenBuffer",
]
