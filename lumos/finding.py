"""What one check of the doctor saw, and what to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one check saw; ``remedy`` is empty where all is well, or where nothing can be said."""

    check: str
    seen: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing needs to be done."""
        return not self.remedy
