"""One figure twice: as the study stored it and as it comes out here."""

from search_spaces.sources import Config


class Compared(Config):
    """A figure of the study beside our own.

    Attributes:
        study: None where the study did not store one.
    """

    study: float | None
    ours: float

    def agrees(self, spec: str) -> bool:
        """Whether both read the same in a format, such as ``.3f``."""
        return self.study is not None and format(self.study, spec) == format(self.ours, spec)
