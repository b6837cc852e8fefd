"""How long a machine was silent, counted in looks that succeeded.

A clock would count the time in which S3 was down as well: the machine could not be heard then, and
the first look after it would take it for dead. So a failed look counts for nothing.
"""

from collections.abc import Hashable


class Silence:
    """Successful looks since something new was last seen.

    Attributes:
        looks: Their number. The first sight of a machine counts as something new, if it is there.
    """

    def __init__(self) -> None:
        self.looks = 0
        self._seen: Hashable | None = None

    def heard(self, pulse: Hashable | None) -> int:
        """Take a successful look into account; gives the number of silent looks up to it.

        Args:
            pulse: What changes with each pulse, such as its time; ``None`` before the first one.
        """
        is_new = pulse is not None and pulse != self._seen
        self._seen = pulse
        self.looks = 0 if is_new else self.looks + 1
        return self.looks
