"""Errors about environments; the messages name the fix."""


class UnknownEnvironmentError(ValueError):
    """Raised when an environment id is not registered; the message has the closest ids."""


class MissingExtraError(ImportError):
    """Raised when an environment needs a package that is not installed; the message has the fix."""


class InvalidResultError(RuntimeError):
    """Raised when an environment's step or reset returns something invalid; names environment and step."""
