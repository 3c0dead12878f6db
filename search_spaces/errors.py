"""The exceptions that a user is meant to read."""


class SponError(Exception):
    """A fault that the user can mend: bad input, a missing file, a resource that is not there.

    The message is one line that gives the rule, the value that broke it and where the value came from. Command lines
    print it without a traceback and exit with status 2; a Ray trial that ends with one is marked with it.
    """


class NodeError(SponError):
    """A fault of the machine, such as a full disk: another machine may do the same work.

    Attributes:
        node: Ray's id of the machine, where a worker of Ray's met it.
    """

    node: str = ""
