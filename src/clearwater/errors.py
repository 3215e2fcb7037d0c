"""The errors that clearwater raises on purpose: each is one sentence for the person who reads it."""

__all__ = ["ClearwaterError", "InputError"]


class ClearwaterError(Exception):
    """Something went wrong that the user can act on. The message is the whole story."""

    exit_code = 1


class InputError(ClearwaterError, ValueError):
    """What was given cannot be used: the message says what was given, what is allowed, what to do."""

    exit_code = 2
