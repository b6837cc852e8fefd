"""A fantasy-sports platform of any size, made up by known laws (docs/fantasy_sports.md).

Deterministic from a seed, made block by block of users in bounded memory, with the truth beside
the data: what each event and the offer did, and how probable each active day was.
"""

from lumos.datasets.fantasy_sports.landing import land
from lumos.datasets.fantasy_sports.platform import recipe
from lumos.datasets.fantasy_sports.world import World

__all__ = ["World", "land", "recipe"]
