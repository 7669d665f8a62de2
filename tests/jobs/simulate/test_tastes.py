"""The hidden structure: clusters, what follows what, and what drift changes of it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jobs.simulate.tastes import FOLLOWING, Tastes, bundle_tastes, synthetic_tastes
from models.bundle_files import BundleError

STARTER = Path(__file__).resolve().parents[3] / "models" / "starter" / "online-retail"
DRAWS = ((np.arange(20_000) + 0.5) / 20_000).tolist()


@pytest.fixture(scope="module")
def shop() -> Tastes:
    return synthetic_tastes(items=300, clusters=6, seed=1)


@pytest.fixture(scope="module")
def retail() -> Tastes:
    return bundle_tastes(STARTER, clusters=60, seed=0)


def test_one_seed_gives_one_shop_and_another_seed_another() -> None:
    first, again, other = (synthetic_tastes(200, 4, seed) for seed in (1, 1, 2))
    assert (first.roles, first.items) == (again.roles, again.items)
    assert first.items.prices != other.items.prices


def test_members_of_a_cluster_follow_each_other(shop: Tastes) -> None:
    for role, following in enumerate(shop.roles.following):
        assert len(set(following)) == FOLLOWING
        assert role not in following
        assert {shop.roles.cluster[each] for each in following} == {shop.roles.cluster[role]}


@pytest.mark.parametrize("kind", ["shop", "retail"])
def test_every_role_is_in_its_cluster_and_nowhere_else(
    kind: str, request: pytest.FixtureRequest
) -> None:
    roles = request.getfixturevalue(kind).roles
    assert sorted(role for members in roles.members for role in members) == [
        *range(len(roles.cluster))
    ]
    for cluster, members in enumerate(roles.members):
        assert {roles.cluster[role] for role in members} <= {cluster}


def test_roles_of_a_cluster_are_drawn_by_popularity(shop: Tastes) -> None:
    counts = Counter(shop.roles.any_role(0, draw) for draw in DRAWS)
    shares = np.diff([0.0, *shop.roles.shares[0]])
    assert [counts[role] / len(DRAWS) for role in shop.roles.members[0]] == pytest.approx(
        shares, abs=1e-3
    )
    assert max(shares) > 5 * min(shares)


def test_the_nearest_following_role_is_the_likeliest(shop: Tastes) -> None:
    counts = Counter(shop.roles.next_role(7, draw) for draw in DRAWS)
    known = [((k + 1) ** 0.5 - k**0.5) / FOLLOWING**0.5 for k in range(FOLLOWING)]
    got = [counts[role] / len(DRAWS) for role in shop.roles.following[7]]
    assert got == pytest.approx(known, abs=1e-3)


def test_an_item_of_a_bundle_is_followed_by_what_was_bought_with_it(retail: Tastes) -> None:
    titles = dict(zip(retail.items.ids, retail.items.titles, strict=True))
    red = "85099B"  # JUMBO BAG RED RETROSPOT
    near = [titles[item] or "" for item in retail.following(red)]
    assert sum("JUMBO" in title for title in near) >= 5, near
    assert sum(map(len, retail.roles.following)) > 7 * len(retail.items.ids)


def test_a_cluster_of_a_bundle_holds_items_that_go_together(retail: Tastes) -> None:
    cluster = retail.roles.cluster
    same = [cluster[a] == cluster[b] for a, row in enumerate(retail.roles.following) for b in row]
    assert np.mean(same) > 0.3  # by chance: about 1 of 60


def test_drift_changes_as_many_items_as_it_is_told(shop: Tastes) -> None:
    after = shop.drifted(share=0.4, new_items=0.1, seed=5)
    same = [a == b for a, b in zip(shop.items.ids, after.items.ids, strict=True)]
    new = set(after.items.ids) - set(shop.items.ids)
    assert len(new) == 30
    assert len(set(shop.items.ids) - set(after.items.ids)) == 30
    assert len(same) - sum(same) == 120 + 30
    assert after.roles is shop.roles
    assert len(set(after.items.ids)) == 300


def test_no_drift_changes_nothing_and_one_seed_gives_one_drift(shop: Tastes) -> None:
    assert shop.drifted(0.0, 0.0, 5).items == shop.items
    assert shop.drifted(0.4, 0.1, 5).items == shop.drifted(0.4, 0.1, 5).items
    assert shop.drifted(0.4, 0.1, 5).items != shop.drifted(0.4, 0.1, 6).items


def test_an_item_takes_its_title_and_price_along(shop: Tastes) -> None:
    after = shop.drifted(1.0, 0.0, 3)
    facts = {
        item: (title, price)
        for item, title, price in zip(
            shop.items.ids, shop.items.titles, shop.items.prices, strict=True
        )
    }
    for item, title, price in zip(
        after.items.ids, after.items.titles, after.items.prices, strict=True
    ):
        assert facts[item] == (title, price)
    assert all(a != b for a, b in zip(shop.items.ids, after.items.ids, strict=True))


def test_more_clusters_than_items_are_refused() -> None:
    with pytest.raises(ValueError, match="expected between 1 and 5 clusters for 5 items"):
        synthetic_tastes(5, 6, 0)
    with pytest.raises(ValueError, match="clusters for 3398 items"):
        bundle_tastes(STARTER, 4000, 0)


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    damaged = shutil.copytree(STARTER, tmp_path / "damaged")
    with (damaged / "vectors.npy").open("r+b") as file:
        file.write(b"nothing")
    with pytest.raises(BundleError, match=r"vectors\.npy"):
        bundle_tastes(damaged, 60, 0)
