"""From a chest X-ray archive to a trustworthy, explained, versioned pneumonia classifier."""

__version__ = "0.1.0"


class UserError(Exception):
    """What the user can put right: a stage prints it as one line and ends with exit status 1.

    The message says what arrived, what was expected, and the remedy.
    """
