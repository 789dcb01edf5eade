"""Identities for a source that names none: faces with similar embeddings are one person."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import FaceCDMError

if TYPE_CHECKING:
    from .data_set import DataSet

BLOCK = 1024
MOST = 12_000  # faces in one linkage; its distances take n²/2 · 8 bytes


def cluster(embeddings: np.ndarray, same: float) -> np.ndarray:
    """Embeddings [N, D] → person numbers [N], in the order of each person's first picture.

    Average linkage (scipy) joins groups while their mean cosine is at least `same`. Joining two groups needs a pair
    that reaches `same`, so linkage runs separately on each connected component of the graph of such pairs. The result
    does not change, and memory is that of the largest component. Raises FaceCDMError for one of more than MOST faces.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
    part = _connected(unit, same)
    largest = np.bincount(part).max()
    if largest > MOST:
        raise FaceCDMError(
            f"{largest:,} faces are connected at same_person {same:g} (each is similar to another of them), and "
            f"{MOST:,} can be clustered: give each person a folder, or name the people by `identity` in meta.jsonl, or "
            'raise same_person; if all are one person, set identities to "one person". The faces that were found are '
            "kept."
        )
    group = np.zeros(len(unit), np.int64)
    for number in np.unique(part):
        rows = np.flatnonzero(part == number)
        inner = np.zeros(len(rows), np.int64)
        if len(rows) > 1:
            inner = fcluster(linkage(pdist(unit[rows].astype(np.float64), "cosine"), "average"), 1 - same, "distance")
        group[rows] = group.max() + 1 + inner
    order = {value: number for number, value in enumerate(dict.fromkeys(group.tolist()))}
    return np.array([order[value] for value in group.tolist()], np.int64)


def _connected(unit: np.ndarray, same: float) -> np.ndarray:
    """Component numbers [N] in the graph of pairs with a cosine ≥ `same`, computed in blocks of rows."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    part = np.arange(len(unit))
    for start in range(0, len(unit), BLOCK):
        a, b = np.nonzero(unit[start : start + BLOCK] @ unit.T >= same)
        rows, columns = np.concatenate([part[a + start], np.arange(len(unit))]), np.concatenate([part[b], part])
        graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(unit), len(unit)))
        part = connected_components(graph, directed=False)[1]
    return part


def find_outliers(data: "DataSet", same: float) -> list[int]:
    """Pictures whose mean cosine to their person's others is below `same`, for people with three pictures or more."""
    found = []
    for indices in data.people.values():
        if len(indices) < 3:
            continue
        unit = torch.nn.functional.normalize(data.features(indices, vision=False)[0], dim=1)
        similarity = (unit @ unit.sum(0) - 1) / (len(indices) - 1)
        found += [index for index, value in zip(indices, similarity.tolist()) if value < same]
    return sorted(found)
