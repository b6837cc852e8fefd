"""Nearest vectors by cosine: exact over a table of any size, or by an index for many questions.

Vectors are centred first. Embeddings of one model point in much the same direction, what they have
in common says nothing, and without it a similarity of 0 means "no more alike than any two".

Shape suffixes: N vectors, Q queries, D width.
"""

from collections.abc import Iterable

import faiss
import numpy as np

from lumos.serve.vectors import Floats, Vectors

# Up to here a flat index answers within milliseconds and is exact. Beyond, one of cells is trained.
EXACT_UP_TO = 1_000_000
_DECIMALS = 5  # of a similarity: what is left is rounding
_SEED = 20
_PROBED_SHARE = 16  # one cell in so many is looked into; docs/embeddings.md has the recall
_TRAINING_A_CELL = 64


def directions(vectors_ND: Floats, centre_D: Floats) -> Floats:
    """Of length 1, away from the centre; zeros for what lies on it."""
    away_ND = np.asarray(vectors_ND - centre_D, np.float32)
    length_N1 = np.linalg.norm(away_ND, axis=1, keepdims=True)
    return np.asarray(
        np.divide(away_ND, length_N1, out=np.zeros_like(away_ND), where=length_N1 > 0)
    )


def nearest_exactly(
    query_D: Floats, chunks: Iterable[Vectors], centre_D: Floats, k: int
) -> tuple[Vectors, Floats]:
    """The k most similar of all chunks, holding one chunk at a time.

    Args:
        query_D: A direction from the centre.
        chunks: Raw vectors.
        centre_D: Of all of them.
        k: How many, if there are as many.

    Returns:
        The neighbours and their similarities, most similar first, ties by id.
    """
    best, similar = Vectors.none(), np.zeros(0, np.float32)
    for chunk in chunks:
        toward_ND = directions(chunk.matrix_ND, centre_D)
        few = min(k, len(chunk))
        found, number = faiss.knn(query_D[None], toward_ND, few, metric=faiss.METRIC_INNER_PRODUCT)
        # Whatever ties with the last one that faiss took; among equals the first ids stay.
        is_near = toward_ND @ query_D >= found[0, -1] - 2 * 10**-_DECIMALS
        is_near[number[0]] = True
        best = Vectors.concat([best, chunk.take(is_near)])
        similar = np.concatenate([similar, (toward_ND[is_near] @ query_D).round(_DECIMALS)])
        order = np.lexsort((best.ids.astype(str), -similar))[:k]
        best, similar = best.take(order), similar[order]
    return best, similar


def index_of(vectors_ND: Floats, *, exact_up_to: int = EXACT_UP_TO) -> faiss.Index:
    """An index for many questions; ``search(queries_QD, k)`` gives similarities and numbers.

    Args:
        vectors_ND: Directions; all of them are kept in memory, 4 x D bytes each.
        exact_up_to: More vectors than this are put into about 4 sqrt(N) cells, whose centres are
            fitted with a fixed seed, and a query looks into a sixteenth of them.
    """
    num, width = vectors_ND.shape
    if num <= exact_up_to:
        flat = faiss.IndexFlatIP(width)
        flat.add(vectors_ND)
        return flat
    num_cells = max(1, int(4 * np.sqrt(num)))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(width), width, num_cells, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed, index.cp.spherical = _SEED, True
    sample = np.random.default_rng(_SEED).permutation(num)[: num_cells * _TRAINING_A_CELL]
    index.train(vectors_ND[np.sort(sample)])
    index.add(vectors_ND)
    index.nprobe = max(1, num_cells // _PROBED_SHARE)
    return index
