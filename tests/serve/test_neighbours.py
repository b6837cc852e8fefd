"""Neighbours are those that comparing everybody with everybody finds, however they are read."""

import numpy as np
import pytest

from lumos.serve.neighbours import directions, index_of, nearest_exactly
from lumos.serve.vectors import Vectors


def vectors(num: int = 500, width: int = 16, seed: int = 0) -> np.ndarray:
    """A few habits, and everybody a little different; all far from the origin."""
    random = np.random.default_rng(seed)
    habits = random.normal(size=(20, width))
    own = habits[random.integers(0, 20, num)] + 0.5 * random.normal(size=(num, width))
    return (own + 5).astype(np.float32)


def as_rows(matrix: np.ndarray) -> Vectors:
    zeros = np.zeros(len(matrix), np.int32)
    ids = np.array([f"u{n:06d}" for n in range(len(matrix))], object)
    return Vectors(ids, matrix, zeros, zeros, zeros)


def chunks(rows: Vectors, size: int) -> list[Vectors]:
    numbers = np.arange(len(rows))
    return [rows.take(numbers[start : start + size]) for start in range(0, len(rows), size)]


@pytest.mark.parametrize("size", [1, 7, 500])
def test_chunks_of_any_size_give_the_nearest_of_all(size: int) -> None:
    rows = as_rows(vectors())
    centre = rows.matrix_ND.mean(axis=0)
    toward = directions(rows.matrix_ND, centre)
    expected = np.argsort(-(toward @ toward[3]))[:10]

    found, similarity = nearest_exactly(toward[3], chunks(rows, size), centre, 10)

    assert found.ids.tolist() == [f"u{n:06d}" for n in expected]
    assert similarity == pytest.approx(np.sort(toward @ toward[3])[::-1][:10], abs=1e-5)


@pytest.mark.parametrize("size", [3, 8, 64])
def test_among_equals_the_first_ids_are_named(size: int) -> None:
    matrix = vectors(64)
    matrix[10:50] = matrix[10]
    rows = as_rows(matrix)
    centre = matrix.mean(axis=0)
    shuffled = rows.take(np.random.default_rng(1).permutation(64))

    query = directions(matrix[10:11], centre)[0]
    found, _ = nearest_exactly(query, chunks(shuffled, size), centre, 5)

    assert found.ids.tolist() == [f"u{n:06d}" for n in range(10, 15)]


def test_fewer_than_asked_are_all_and_none_is_none() -> None:
    rows = as_rows(vectors(4))
    centre = rows.matrix_ND.mean(axis=0)
    query = directions(rows.matrix_ND[:1], centre)[0]
    assert len(nearest_exactly(query, [rows], centre, 10)[0]) == 4
    assert len(nearest_exactly(query, [], centre, 10)[0]) == 0


def test_what_all_have_in_common_is_no_similarity() -> None:
    made = vectors()
    raw = made / np.linalg.norm(made, axis=1, keepdims=True)
    toward = directions(made, made.mean(axis=0))
    assert (raw @ raw.T).min() > 0.8
    assert abs(float((toward @ toward.T).mean())) < 0.05


def test_a_vector_on_the_centre_has_no_direction() -> None:
    assert not directions(np.ones((1, 3), np.float32), np.ones(3, np.float32)).any()


def test_an_index_of_cells_finds_nearly_all_and_twice_the_same() -> None:
    made = vectors(8_000)
    toward = directions(made, made.mean(axis=0))
    queries = toward[::100]
    exact = index_of(toward).search(queries, 10)[1]

    index, again = (index_of(toward, exact_up_to=1000) for _ in range(2))
    first, second = (each.search(queries, 10)[1] for each in (index, again))

    assert np.array_equal(first, second)
    shared = [
        len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), first.tolist(), strict=True)
    ]
    assert np.mean(shared) >= 0.95
    assert index.nprobe * 10 < index.nlist


def test_a_small_index_is_exact() -> None:
    made = vectors()
    toward = directions(made, made.mean(axis=0))
    found = index_of(toward).search(toward[:5], 3)[1]
    assert np.array_equal(found, np.argsort(-(toward[:5] @ toward.T), axis=1)[:, :3])
