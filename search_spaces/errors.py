"""Exceptions whose messages are for users."""


class SponError(Exception):
    """A fault that the user can fix: bad input, a missing file, an unavailable resource.

    The message is one line with the rule, the value that broke it and the source of the value. Command lines print it
    without a traceback and exit with status 2. A Ray trial that ends with one is marked with it.
    """


class NodeError(SponError):
    """A fault of the machine, such as a full disk. Another machine may do the same work.

    Attributes:
        node: Ray's id of the machine, if a Ray worker hit the fault.
    """

    node: str = ""
