"""What simulated shoppers want: hidden from every model, known to tests.

Shoppers want roles, and items play them. A role belongs to a cluster and is followed by other
roles; drift leaves all of that as it is and gives roles to other items. A model that has learnt
which items go together is then wrong about every item that changed its role.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLLOWING = 8  # roles that go with a role, the nearest first
_STRUCTURE, _DRIFT = 1, 2  # one seed, two independent streams


@dataclass(frozen=True, slots=True)
class Roles:
    """What goes with what among R roles; plain lists, since shoppers read single values."""

    cluster: list[int]  # [R]
    following: list[list[int]]  # [R][up to FOLLOWING] roles, the nearest first
    members: list[list[int]]  # [C] roles of each cluster
    shares: list[list[float]]  # [C] cumulative popularity of its members, ending with 1
    cluster_shares: list[float]  # cumulative popularity of the clusters, ending with 1

    def any_cluster(self, draw: float) -> int:
        """A cluster by popularity; `draw` is uniform in [0, 1)."""
        return bisect_right(self.cluster_shares, draw)

    def any_role(self, cluster: int, draw: float) -> int:
        """A role of the cluster by popularity; `draw` is uniform in [0, 1)."""
        return self.members[cluster][bisect_right(self.shares[cluster], draw)]

    def next_role(self, role: int, draw: float) -> int:
        """A role that follows, the nearest likeliest: the k-th of K if k-1 <= K draw² < k."""
        following = self.following[role]
        if not following:
            return self.any_role(self.cluster[role], draw)
        return following[int(len(following) * draw * draw)]


@dataclass(frozen=True, slots=True)
class Items:
    """The item that plays each role: R items as parallel columns."""

    ids: list[str]
    titles: list[str | None]
    prices: list[float | None]  # None where not known


class Tastes:
    """Roles and the items that play them."""

    def __init__(self, roles: Roles, items: Items) -> None:
        self.roles, self.items = roles, items
        self.role_of = {item: role for role, item in enumerate(items.ids)}

    def following(self, item_id: str) -> list[str]:
        """The items that go with an item, the nearest first."""
        return [self.items.ids[role] for role in self.roles.following[self.role_of[item_id]]]

    def drifted(self, share: float, new_items: float, seed: int) -> Tastes:
        """The same roles, played by others: what a model has learnt is wrong about these.

        `share` of the items change places, `new_items` of them are replaced by new ones and have
        no role any more; these are different items where both sum up to at most 1.
        """
        size = len(self.items.ids)
        order = np.random.default_rng([seed, _DRIFT]).permutation(size)
        moved, replaced = order[: round(share * size)], order[size - round(new_items * size) :]
        player = np.arange(size)
        player[moved] = np.roll(moved, 1)
        titles = [self.items.titles[at] for at in player]
        ids = [self.items.ids[at] for at in player]
        prices = [self.items.prices[at] for at in player]
        for role in replaced:
            ids[role] = f"new-{self.items.ids[role]}"
            titles[role] = f"NEW {self.items.titles[role] or self.items.ids[role]}"
            prices[role] = self.items.prices[role]
        return Tastes(self.roles, Items(ids, titles, prices))


def synthetic_tastes(items: int, clusters: int, seed: int) -> Tastes:
    """Tastes over invented items; the members of a cluster follow each other in a ring."""
    if not 1 <= clusters <= items:
        raise ValueError(f"expected between 1 and {items} clusters for {items} items; {clusters=}")
    rng = np.random.default_rng([seed, _STRUCTURE])
    cluster = np.arange(items) * clusters // items
    popularity = rng.permutation((1.0 + np.arange(items)) ** -0.7)
    columns = Items(
        [f"item-{number:06d}" for number in range(items)],
        [f"THING {number} OF KIND {kind}" for number, kind in enumerate(cluster.tolist())],
        rng.lognormal(1.0, 0.8, items).round(2).tolist(),
    )
    members = _members(cluster, clusters)
    following = [_ring(members[kind], role) for role, kind in enumerate(cluster.tolist())]
    return Tastes(_roles(cluster, members, following, popularity), columns)


def bundle_tastes(folder: Path | str, clusters: int, seed: int) -> Tastes:
    """Tastes over the catalogue of a bundle, of the kind its data showed.

    An item is followed by its neighbours; clusters are those of the vectors (k-means). Raises
    BundleError where there is no sound bundle.
    """
    from models.loading import load_bundle

    bundle = load_bundle(folder)
    catalogue, neighbours = bundle.catalogue, bundle.neighbours
    size = len(catalogue)
    if not 1 <= clusters <= size:
        raise ValueError(f"expected between 1 and {size} clusters for {size} items; {clusters=}")
    together = neighbours.weights[:, :, 0]
    nearest = np.argsort(-together, axis=1, kind="stable")[:, :FOLLOWING]
    following = [
        [int(neighbours.items[role, at]) for at in row if together[role, at] > 0]
        for role, row in enumerate(nearest)
    ]
    cluster = _clustered(bundle.vectors, clusters, seed)
    prices = [float(price) if price > 0 else None for price in catalogue.prices.round(2)]
    items = Items(catalogue.item_ids, catalogue.titles, prices)
    members = _members(cluster, clusters)
    return Tastes(_roles(cluster, members, following, catalogue.popularity), items)


def _clustered(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The cluster of each item by k-means over the directions of the vectors: int64 [R]."""
    import faiss

    directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    means = faiss.Kmeans(
        vectors.shape[1], clusters, niter=20, seed=seed, spherical=True, min_points_per_centroid=1
    )
    means.train(directions.astype(np.float32))
    return means.index.search(directions.astype(np.float32), 1)[1][:, 0]


def _members(cluster: np.ndarray, clusters: int) -> list[list[int]]:
    return [np.flatnonzero(cluster == number).tolist() for number in range(clusters)]


def _ring(members: list[int], role: int) -> list[int]:
    place, size = role - members[0], len(members)
    return [members[(place + step) % size] for step in range(1, min(FOLLOWING + 1, size))]


def _roles(
    cluster: np.ndarray,
    members: list[list[int]],
    following: list[list[int]],
    popularity: np.ndarray,
) -> Roles:
    weight = np.asarray(popularity, np.float64) + 1e-9
    return Roles(
        cluster.tolist(),
        following,
        members,
        [_cumulative(weight[roles]) for roles in members],
        _cumulative([weight[roles].sum() for roles in members]),
    )


def _cumulative(weights: Sequence[float] | np.ndarray) -> list[float]:
    """Cumulative shares; the last is exactly 1, above every draw. Empty for no weights."""
    sums = np.cumsum(weights)
    return [*(sums[:-1] / sums[-1]).tolist(), 1.0] if len(sums) else []
