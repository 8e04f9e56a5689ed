"""Answers that were paid for: embeddings by their inputs, rankings as a whole.

cache      a call's way: what of it is at hand, who asks for the rest, what is kept of the answer
keys       what a call asks for at a target, as digests
found      a call at one target: what is at hand and what is missing, and one answer out of both
entries    what is kept under a key; as bytes where a tier behind the memory is to have it
flights    calls under way, which identical ones share
memory     the entries of this process; the least recently used goes first
disk, redis    the tier behind it, where configured; sqlite is disk's file
"""

from __future__ import annotations

from .lookup import Cache, Lookup, Store, Tiers
from .merge import Found, Outcome

__all__ = ["Cache", "Found", "Lookup", "Outcome", "Store", "Tiers"]
