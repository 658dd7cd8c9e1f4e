"""Which tokens are computed next, of which sequences: continuous batching within the budgets. Knows no model."""

from transom.scheduler.output import ScheduledSequence, SchedulerOutput
from transom.scheduler.scheduler import Scheduler
from transom.scheduler.sequence import Sequence, SequenceStatus
from transom.scheduler.stats import SchedulerStats
from transom.scheduler.token_buffer import TokenBuffer

__all__ = [
    "ScheduledSequence",
    "Scheduler",
    "SchedulerOutput",
    "SchedulerStats",
    "Sequence",
    "SequenceStatus",
    "TokenBuffer",
]
