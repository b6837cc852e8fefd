"""Cohorts: users grouped by their embeddings, under numbers that mean the same tomorrow.

Centroids are fitted once a model version, by k-means, and kept: from then on a user's cohort is the
nearest of them. Another model version has another space and hence other centroids; each takes the
number of the cohort that most of its users were in on the day before.

Shape suffixes: N users, D width of an embedding, K cohorts.
"""

from collections.abc import Mapping

import numpy as np

from lumos.serve.vectors import Floats

_SEED = 20
_ROUNDS, _STARTS = 25, 3
_USERS_A_COHORT = 4096  # more teach k-means nothing


def fit_centroids(sample_ND: Floats, num_cohorts: int) -> Floats:
    """Centres of clusters of users, (K, D), the largest cluster first.

    Args:
        sample_ND: Embeddings; at least one.
        num_cohorts: Fewer where there are not as many distinct users.
    """
    import faiss  # a second to import, for a verb that may have nothing to fit

    distinct = np.unique(sample_ND, axis=0)
    if len(distinct) <= num_cohorts:
        return np.asarray(distinct)
    kmeans = faiss.Kmeans(
        sample_ND.shape[1],
        num_cohorts,
        niter=_ROUNDS,
        nredo=_STARTS,
        seed=_SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=_USERS_A_COHORT,
    )
    kmeans.train(np.ascontiguousarray(sample_ND))
    centroids_KD = np.asarray(kmeans.centroids)
    sizes_K = np.bincount(nearest(sample_ND, centroids_KD), minlength=num_cohorts)
    return np.asarray(centroids_KD[np.argsort(-sizes_K, kind="stable")])


def nearest(vectors_ND: Floats, centroids_KD: Floats) -> np.ndarray:
    """Number of the nearest centroid of each user, int64 of shape (N,)."""
    lengths_K = (centroids_KD**2).sum(axis=1)
    return np.asarray((lengths_K - 2 * vectors_ND @ centroids_KD.T).argmin(axis=1))


def matched(
    cohort_N: np.ndarray, earlier: Mapping[str, int], ids: np.ndarray, num: int
) -> np.ndarray:
    """Which new centroid takes each number, so that as many users as can be keep theirs.

    Args:
        cohort_N: Number of the new centroid of each user.
        earlier: Number that users had, by id.
        ids: Of the users.
        num: How many centroids there are.

    Returns:
        New centroids in the order of their numbers, shape (num,).
    """
    from scipy.optimize import linear_sum_assignment

    had = np.array([earlier.get(name, -1) for name in ids.tolist()], np.int64)
    is_known = (had >= 0) & (had < num)
    shared = np.zeros((num, num))
    np.add.at(shared, (had[is_known], cohort_N[is_known]), 1)
    return np.asarray(linear_sum_assignment(shared, maximize=True)[1])
