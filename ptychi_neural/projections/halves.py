"""Two interleaved halves of a scan, each of which covers what the whole scan covers."""

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree
from torch import Tensor

N_NEIGHBOURS = 8
"""Number of nearest neighbours among which the spanning tree is looked for."""


def interleaved_halves(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Deal the positions into two halves: on a raster, the fields of a chequerboard.

    Neighbours in the minimum spanning tree of the positions are in different halves.

    Parameters
    ----------
    positions : Tensor
        (n, 2) positions in pixels, n > 1.

    Returns
    -------
    tuple of Tensor
        Indices of the one half and of the other, in ascending order.
    """
    points = positions.detach().cpu().double().numpy()
    n = len(points)
    distances, neighbours = cKDTree(points).query(points, k=min(N_NEIGHBOURS + 1, n))
    lengths = distances + 1e-9 * distances.max() + 1e-30  # A length of 0 would be no edge.
    ends = np.arange(0, neighbours.size + 1, neighbours.shape[1])
    graph = csr_matrix((lengths.ravel(), neighbours.ravel(), ends), shape=(n, n))
    tree = minimum_spanning_tree(graph)
    in_second = torch.zeros(n, dtype=torch.bool, device="cpu")
    _, parts = connected_components(tree, directed=False)
    for part in range(parts.max() + 1):
        root = int((parts == part).argmax())
        order, parents = breadth_first_order(tree, root, directed=False)
        for i in order[1:]:
            in_second[i] = ~in_second[parents[i]]
    first, second = ((in_second == half).nonzero()[:, 0] for half in (False, True))
    return first.to(positions.device), second.to(positions.device)
