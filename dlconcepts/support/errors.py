"""The error that every command explains in one sentence, with exit status 2."""


class UserError(RuntimeError):
    """A mistake that the user can fix; the message says how. `details` are lines to print below."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details
