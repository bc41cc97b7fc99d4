"""Several objectives: which points no other beats, how much they win together, and which of them to take.

Pure functions of points, one coordinate for each objective, where larger is better (`upward` turns the others over).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

Point = tuple[float, ...]
Pick = Literal["knee", "lexicographic", "weights"]


def upward(objectives: Mapping[str, str], metrics: Mapping[str, float]) -> Point:
    """The objectives of `metrics` in their order, with the sign under which larger is better."""
    return tuple(metrics[name] if way == "max" else -metrics[name] for name, way in objectives.items())


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is at least as good in everything and better in something."""
    return one != other and all(x >= y for x, y in zip(one, other, strict=True))


def fronts(points: Sequence[Point]) -> list[int]:
    """The front of each point: 0 where no other dominates it, 1 where only points of front 0 do, and so on."""
    found: list[int | None] = [None] * len(points)
    left, front = set(range(len(points))), 0
    while left:
        first = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in first:
            found[i] = front
        left, front = left - first, front + 1
    return [front for front in found if front is not None]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between `reference` and the points that are better than it in everything, in the product of units.

    By slices along the last coordinate (While et al. 2006, HSO): exact, and quick for the tens of points of a front.
    """
    above = [p for p in points if all(x > r for x, r in zip(p, reference, strict=True))]
    if not above:
        return 0.0
    if len(reference) == 1:
        return max(point[0] for point in above) - reference[0]
    heights = sorted({point[-1] for point in above})
    floors = [reference[-1], *heights[:-1]]
    return math.fsum(
        (height - floor) * hypervolume([p[:-1] for p in above if p[-1] >= height], reference[:-1])
        for floor, height in zip(floors, heights, strict=True)
    )


def preference(points: Sequence[Point], pick: Pick, weights: Sequence[float] = ()) -> list[tuple[float, ...]]:
    """For each point what to sort by, smallest first, to have the point that `pick` takes in front.

    lexicographic: by the first objective, then the second, and so on. knee: fronts in their order; within one by the
    sum of the objectives, each scaled to 0 at the worst and 1 at the best of the first front; for two objectives that
    is the point farthest above the line between the front's ends (Das 1999). weights: by the weighted mean of the
    objectives, scaled to 0 at the worst and 1 at the best of all points.
    """
    if pick == "lexicographic" or not points or len(points[0]) == 1:
        return [tuple(-x for x in point) for point in points]
    x = np.asarray(points, dtype=np.float64)
    order = np.asarray(fronts(points))
    span = x if pick == "weights" else x[order == 0]
    low, high = span.min(0), span.max(0)
    scaled = (x - low) / np.where(high > low, high - low, 1.0)
    if pick == "weights":
        return [(-float(value),) for value in scaled @ (np.asarray(weights) / np.sum(weights))]
    sums = scaled.sum(1)
    return [(float(order[i]), -float(sums[i]), *(-value for value in point)) for i, point in enumerate(points)]
