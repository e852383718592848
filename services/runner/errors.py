"""Why a job cannot be started; the text becomes the job's description with code 1."""


class CannotStart(Exception):
    """The job ends with code 1; `str()` is its description (plugins.md 4.1)."""
