"""Errors about environments; their messages say how to fix the problem."""


class UnknownEnvironmentError(ValueError):
    """Raised when an environment id is not registered; the message suggests similar ids."""


class MissingExtraError(ImportError):
    """Raised when an environment needs a package that is not installed; the message says what to do."""


class InvalidResultError(RuntimeError):
    """Raised when an environment returns something invalid; the message names environment and step."""
