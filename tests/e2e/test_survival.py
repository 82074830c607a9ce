"""Parts of the product are killed under load: everything works again by itself, and every sum holds."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.campaign.campaign import Campaign, Strike, schedule
from tests.campaign.kills import KINDS

pytestmark = [pytest.mark.stack, pytest.mark.slow]

RUNS = (
    (
        "trainer",
        "worker",
        "host",
        "out of memory",
        "hung trainer",
        "web and gateway",
        "ingress",
        "hung postgres",
        "postgres",
        "trainer pool",
    ),
    ("ray head",),
    ("network cut", "network half open", "artifacts full", "replies lost", "network reset", "database full"),
    ("network slow", "all at once", "supervisor"),
)
PAUSE_S = 1.0


@pytest.fixture(scope="module")
def campaign(stack: Any) -> Iterator[Campaign]:
    """A customer at work on the product that the other tests have used."""
    made = Campaign(stack, customers=1)
    yield made
    made.customers.leave()


@pytest.mark.parametrize("kinds", RUNS, ids=", ".join)
def test_after_kills_everything_works_again_and_every_sum_holds(campaign: Campaign, kinds: Sequence[str]) -> None:
    before = campaign.record.kills
    assert campaign.run([Strike(PAUSE_S, kind) for kind in kinds]) == []
    assert campaign.record.kills >= before + len(kinds)


def test_every_kind_of_kill_is_among_them() -> None:
    assert {kind for kinds in RUNS for kind in kinds} == set(KINDS)


def test_a_seed_replays() -> None:
    assert [schedule(seed) for seed in range(50)] == [schedule(seed) for seed in range(50)]
    assert {strike.kind for seed in range(50) for strike in schedule(seed)} == set(KINDS)
