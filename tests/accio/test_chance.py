import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.accio.chance import (
    Chance,
    draw_inner_origins,
    draw_origins,
    first_origins,
    hash_users,
    is_held_out,
    uniform,
)

# Written down once: a change would move users between training and hold-out.
PINNED_HASHES = {
    "1": 17517981186694783376,
    "member/é": 15752483422695005103,
    "": 11002672306508523268,
    "twelve bytes": 5082792474226008580,
    "x" * 17: 2844963946992767226,
}
PINNED_UNIFORM = [0.02952, 0.531274, 0.018693, 0.13716, 0.013252]


def numbered(count: int) -> np.ndarray:
    return np.array([str(n) for n in range(count)], object)


def test_hashes_are_the_same_on_every_machine() -> None:
    hashes = hash_users(np.array(list(PINNED_HASHES), object))
    assert hashes.tolist() == list(PINNED_HASHES.values())
    assert uniform(hashes, 1, 0).round(6).tolist() == PINNED_UNIFORM


@given(st.lists(st.text(), max_size=8), st.text())
def test_a_hash_depends_on_the_id_alone_and_tells_ids_apart(others: list[str], own: str) -> None:
    alone = hash_users(np.array([own], object))[0]
    for ids in ([own, *others], [*others, own]):
        hashes = hash_users(pa.array(ids, pa.string()))
        assert hashes[ids.index(own)] == alone
        assert len(set(hashes.tolist())) == len(set(ids))
    assert hash_users(pa.array(["a", own, "b"])[1:2])[0] == alone


def test_the_held_out_share_is_kept_and_depends_on_the_seed_alone() -> None:
    users = numbered(20_000)
    out = is_held_out(users, 0.1, 0)
    assert out.mean() == pytest.approx(0.1, abs=0.01)
    assert (is_held_out(users[::-1], 0.1, 0)[::-1] == out).all()
    assert (is_held_out(users, 0.1, 1) & out).mean() == pytest.approx(0.01, abs=0.004)


def test_origins_spread_evenly_over_what_each_user_allows() -> None:
    hashes = hash_users(numbered(20_000))
    registered = np.where(np.arange(20_000) % 2, 5, 18)
    first = first_origins(registered, 10)
    drawn = draw_origins(hashes, first, 19, Chance(0, 0))
    assert ((drawn >= first) & (drawn <= 19)).all()
    early = np.bincount(drawn[first == 10], minlength=20)[10:] / (first == 10).sum()
    assert early == pytest.approx(np.full(10, 0.1), abs=0.012)
    assert set(drawn[first == 18].tolist()) == {18, 19}
    for other in (Chance(0, 1), Chance(1, 0), Chance(0, 0, 1)):
        assert (drawn != draw_origins(hashes, first, 19, other)).mean() > 0.6


@given(
    st.integers(0, 60), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 3)
)
def test_inner_origins_ascend_by_whole_multiples_within_their_span(
    span_days: int, num_origins: int, days_between: int, seed: int, draw: int
) -> None:
    hashes, last = hash_users(numbered(20)), np.full(20, 139)
    # Some spans are a day longer, as are those of who registered earlier.
    first = last - span_days - np.arange(20) % 2
    chance = Chance(seed, 0, np.full(20, draw))
    drawn = draw_inner_origins(hashes, (first, last), num_origins, chance, days_between)
    assert drawn.shape == (20, num_origins)
    assert (np.diff(drawn, axis=1) >= 0).all()
    assert (drawn[:, -1] == last).all()
    assert (drawn >= first[:, None]).all()
    assert not ((last[:, None] - drawn) % days_between).any()
    room = (last - first) // days_between + 1
    assert (np.diff(drawn, axis=1) > 0)[room >= num_origins].all()
    for one in range(3):  # a user's origins are the user's own
        alone = draw_inner_origins(
            hashes[one : one + 1],
            (first[one : one + 1], last[one : one + 1]),
            num_origins,
            Chance(seed, 0, draw),
            days_between,
        )
        assert (alone[0] == drawn[one]).all()


@pytest.mark.parametrize("days_between", [1, 7])
def test_inner_origins_are_one_from_each_part_and_end_with_the_span(days_between: int) -> None:
    hashes = hash_users(numbered(5_000))
    last = np.full(5_000, 399)
    first = last - 40 * days_between + 1
    drawn = draw_inner_origins(hashes, (first, last), 4, Chance(0, 0), days_between)
    assert (drawn[:, -1] == last).all()
    for part in range(3):
        column = 39 - (last - drawn[:, part]) // days_between - 10 * part
        assert np.bincount(column, minlength=10) / 5_000 == pytest.approx(
            np.full(10, 0.1), abs=0.02
        )
    # A user who registered yesterday has two days for four origins.
    short = draw_inner_origins(hashes, (last - 1, last), 4, Chance(0, 0))
    assert ((short >= 398) & (short <= 399) & (np.diff(short, prepend=0) >= 0)).all()
    for other in (Chance(0, 1), Chance(1, 0), Chance(0, 0, 1)):
        again = draw_inner_origins(hashes, (first, last), 4, other, days_between)
        assert (again[:, :-1] != drawn[:, :-1]).mean() > 0.8
