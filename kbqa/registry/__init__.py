"""What belongs to the whole installation and not to one base: vectorstore/kbqa.sqlite."""

from kbqa.registry.database import FILE, Database
from kbqa.registry.keys import SCOPES, Key, KeyRing, NewKey, Scope, expiry

__all__ = ["FILE", "SCOPES", "Database", "Key", "KeyRing", "NewKey", "Scope", "expiry"]
