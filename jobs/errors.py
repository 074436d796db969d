"""Errors that a user can correct, and the exit statuses of the commands."""

from __future__ import annotations

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_SOME_SHARDS_FAILED = 3
EXIT_DRAINED = 75


class UserError(Exception):
    """Something that the user can correct. The message says what, where and what to do, in one line."""


class ShardError(UserError):
    """One shard cannot be processed; the others go on. The message names the shard."""
