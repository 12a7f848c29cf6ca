"""What belongs to the whole installation and not to one base: vectorstore/kbqa.sqlite."""

from kbqa.registry.adapters import Adapter, Adapters, Served
from kbqa.registry.conversations import Conversation, Conversations, Round
from kbqa.registry.database import FILE, Database, remedy
from kbqa.registry.feedback import RATINGS, Feedback, FeedbackLog, Rating
from kbqa.registry.jobs import ENDED, Job, JobFile, Jobs, JobState, Progress
from kbqa.registry.keys import SCOPES, Key, KeyRing, NewKey, Scope, expiry
from kbqa.registry.stops import Stops

__all__ = [
    "ENDED",
    "FILE",
    "RATINGS",
    "SCOPES",
    "Adapter",
    "Adapters",
    "Conversation",
    "Conversations",
    "Database",
    "Feedback",
    "FeedbackLog",
    "Job",
    "JobFile",
    "JobState",
    "Jobs",
    "Key",
    "KeyRing",
    "NewKey",
    "Progress",
    "Rating",
    "Round",
    "Scope",
    "Served",
    "Stops",
    "expiry",
    "remedy",
]
