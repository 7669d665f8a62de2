"""The loop without Kafka and Flink: the same shop, the same settings, the same verdicts."""

from __future__ import annotations

from collections import defaultdict, deque
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from rich.console import Console

from jobs.finetune import FinetuneJobSettings
from jobs.loop import shop
from jobs.simulate.crowd import Clock, Crowd
from jobs.simulate.population import Offer, ShopperEvent
from jobs.simulate.settings import population
from jobs.train import TrainSettings, train
from models.recommender import Recommender, Settings
from models.registry import Registry
from models.rounds import Loop, RoundSettings
from models.samples import Sample, Samples
from udfs.events import decode, to_text
from udfs.recommend import Answering, Rules
from udfs.sessions import Closing

NOW_MS = 1_750_000_000_000
SEEN_AT_ONCE = 20  # lists that are made together
TRIGGERS = ("select_item", "view_item", "add_to_cart", "purchase")
encode = msgspec.json.Encoder().encode
offer_of = msgspec.json.Decoder(Offer).decode


class Shop:
    """Shoppers who are answered at once; what they do is closed into sessions."""

    def __init__(self, folder: Path) -> None:
        self.crowd = Crowd(population(shop.SHOPPERS, NOW_MS), Clock(NOW_MS, 5.0), at_once=70)
        self.registry = Registry(folder / "registry")
        self.samples = Samples(folder / "samples")
        self.loop = Loop(folder, self.registry, self.samples)
        self.windows: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=20))

    def visit(self, turns: int) -> None:
        """Let shoppers come, and hand their sessions to the samples."""
        decision = self.registry.history().newest
        assert decision is not None
        bundle = self.registry.bundles.load(self.registry.bundles.find(decision.bundle_version))
        ranking = Settings(list_size=shop.RECOMMEND["list_size"])
        recommender = Recommender(bundle, ranking)
        answering = Answering(
            lambda time: recommender, Rules(TRIGGERS, shop.GAP_S * 1000, 86_400_000)
        )
        texts: dict[str, list[str]] = defaultdict(list)
        waiting: list[str] = []
        for _ in range(turns):
            event = self.crowd.turn()
            texts[event.user_id].append(self._arrive(event))
            waiting.append(event.user_id)
            if len(waiting) == SEEN_AT_ONCE:
                answers, _ = answering.answer(waiting, [",".join(self.windows[u]) for u in waiting])
                for answer in filter(None, answers):
                    self.crowd.offer(offer_of(answer.value))
                waiting.clear()
        closing = Closing(shop.GAP_S * 1000, at_once_ms=-1)
        closed = [s for user, own in texts.items() for s in closing.by_silence(user, ",".join(own))]
        self.samples.add((Sample("session", "", each.value) for each in closed), {}, 1000)

    def _arrive(self, event: ShopperEvent) -> str:
        user, decoded = decode(encode(event), event.event_time)
        text = to_text(decoded)
        self.windows[user].append(text)
        return text

    def round(self, settings: RoundSettings) -> Any:
        return self.loop.round(settings, self.crowd.clock.at(self.crowd.sent), silent)


def silent(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total, what


@pytest.fixture(scope="module")
def settings() -> RoundSettings:
    given = FinetuneJobSettings(**shop.FINETUNE).round
    patient = given.gate.model_copy(update={"alone_us": 1e6, "batch_us": 1e6})
    return given.model_copy(update={"gate": patient})


def test_what_was_learned_is_refused_and_what_is_new_wins_clicks_back(
    settings: RoundSettings, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    shop.write_past(tmp_path / "past.jsonl", NOW_MS)
    told = shop.train_settings(tmp_path / "past.jsonl", tmp_path / "first")
    path, _ = train(TrainSettings(**told), Console(quiet=True))
    here = Shop(tmp_path)
    first = here.registry.promote(here.registry.publish(path).bundle_version, 0).bundle_version

    here.visit(5_000)
    refused = here.round(settings)
    assert refused.decided == "rejected"
    assert "serving: MRR@20" in refused.why

    here.crowd.drift(shop.later(here.crowd.population.tastes))
    here.visit(10_000)
    promoted = here.round(settings)
    assert promoted.decided == "promoted", promoted.why
    here.visit(4_000)
    seen = here.crowd.exposures
    steady, before = seen[first, False], seen[first, True]
    after = seen[promoted.bundle_version, True]
    assert before.expected_ctr < 0.6 * steady.expected_ctr
    assert after.expected_ctr > 1.25 * before.expected_ctr
    assert after.ctr > before.ctr
