"""The assignment problem: the cheapest way to give every row a column of its own."""

from __future__ import annotations

from collections.abc import Sequence

_FAR = float("inf")


def assign(cost: Sequence[Sequence[float]]) -> list[int]:
    """Column of each row, -1 where there are more rows than columns, with the least total cost.

    The Hungarian method with potentials, O(rows² · columns); ties go to the lower column, so that the answer is the
    same everywhere.
    """
    if not cost or not cost[0]:
        return [-1] * len(cost)
    if len(cost) > len(cost[0]):
        turned = assign([list(column) for column in zip(*cost, strict=True)])
        out = [-1] * len(cost)
        for column, row in enumerate(turned):
            if row >= 0:
                out[row] = column
        return out
    n, m = len(cost), len(cost[0])
    u, v = [0.0] * (n + 1), [0.0] * (m + 1)
    owner, way = [0] * (m + 1), [0] * (m + 1)
    for i in range(1, n + 1):
        owner[0] = i
        column = 0
        least = [_FAR] * (m + 1)
        used = [False] * (m + 1)
        while True:
            used[column] = True
            row, delta, following = owner[column], _FAR, 0
            costs, shift = cost[row - 1], u[row]
            for j in range(1, m + 1):
                if not used[j]:
                    here = costs[j - 1] - shift - v[j]
                    if here < least[j]:
                        least[j], way[j] = here, column
                    if least[j] < delta:
                        delta, following = least[j], j
            for j in range(m + 1):
                if used[j]:
                    u[owner[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            column = following
            if owner[column] == 0:
                break
        while column:
            before = way[column]
            owner[column] = owner[before]
            column = before
    out = [-1] * n
    for j in range(1, m + 1):
        if owner[j]:
            out[owner[j] - 1] = j - 1
    return out
