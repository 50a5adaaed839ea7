"""The error that a user can mend."""

__all__ = ["UserError"]


class UserError(Exception):
    """One sentence that names what is wrong and what is allowed; the CLI exits with status 2."""
