"""Reasons for which a service cannot start or go on, each one plain sentence for a person.

    StartupError          the sentence is printed, the exit status is 1, no traceback
    └── ConfigError       a setting is wrong or missing

Domain errors (domain/errors.py) are answers to clients; these never reach one.
"""


class StartupError(Exception):
    """A service cannot start; the text is one sentence that says what to do about it."""


class ConfigError(StartupError):
    """A flag, an environment variable or a line of jobledger.toml is wrong."""
