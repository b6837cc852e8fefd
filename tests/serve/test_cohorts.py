"""Cohorts are the clusters that are there, under numbers that stay."""

import numpy as np
import pytest

from lumos.serve.cohorts import fit_centroids, matched, nearest


def clusters(sizes: tuple[int, ...] = (300, 200, 100), seed: int = 0) -> tuple[np.ndarray, ...]:
    """Vectors, and which cluster each is of."""
    random = np.random.default_rng(seed)
    centre = 10 * np.eye(len(sizes), 8)
    which = np.repeat(np.arange(len(sizes)), sizes)
    order = random.permutation(len(which))
    vectors = centre[which] + random.normal(size=(len(which), 8))
    return vectors[order].astype(np.float32), which[order]


def test_clusters_are_found_and_numbered_by_size() -> None:
    vectors, which = clusters()
    assert np.array_equal(nearest(vectors, fit_centroids(vectors, 3)), which)


def test_fitting_twice_gives_equal_centroids() -> None:
    vectors, _ = clusters()
    assert np.array_equal(fit_centroids(vectors, 5), fit_centroids(vectors, 5))


@pytest.mark.parametrize("num_users", [1, 2, 3])
def test_fewer_users_than_cohorts_are_cohorts_of_their_own(num_users: int) -> None:
    vectors = clusters()[0][:num_users]
    centroids = fit_centroids(vectors, 3)
    assert len(centroids) == num_users
    assert sorted(nearest(vectors, centroids).tolist()) == list(range(num_users))


def test_users_who_are_all_alike_are_one_cohort() -> None:
    assert len(fit_centroids(np.ones((50, 4), np.float32), 3)) == 1


def test_a_new_model_keeps_the_numbers_of_its_users() -> None:
    vectors, which = clusters()
    ids = np.array([f"u{n}" for n in range(len(which))], object)
    # Yesterday the clusters had other numbers, and a tenth of the users were elsewhere.
    numbers = np.array([2, 0, 1])
    had = numbers[which]
    had[::10] = (had[::10] + 1) % 3
    earlier = dict(zip(ids.tolist(), had.tolist(), strict=True))
    centroids = fit_centroids(vectors, 3)

    order = matched(nearest(vectors, centroids), earlier, ids, 3)

    assert np.array_equal(nearest(vectors, centroids[order]), numbers[which])


def test_without_earlier_users_the_order_stays() -> None:
    vectors, _ = clusters()
    ids = np.array([f"u{n}" for n in range(len(vectors))], object)
    cohort = nearest(vectors, fit_centroids(vectors, 3))
    assert matched(cohort, {}, ids, 3).tolist() == [0, 1, 2]
    # Numbers beyond today's are of no use either.
    assert matched(cohort, dict.fromkeys(ids.tolist(), 7), ids, 3).tolist() == [0, 1, 2]
