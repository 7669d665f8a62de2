"""Settings of the simulator, and the crowd that follows from them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from jobs.settings import Settings, SettingsError
from jobs.simulate.crowd import Clock, Crowd
from jobs.simulate.population import Drift, Population, Shopping
from jobs.simulate.tastes import Tastes, bundle_tastes, synthetic_tastes
from operators.connection import Connection

ROOT = Path(__file__).resolve().parents[2]


class Broker(Connection):
    """Where the topics are."""

    create_topics: bool = Field(
        False, description="create missing topics, with 4 partitions and no replica"
    )


class DriftSettings(Settings):
    """How tastes change, once."""

    after_s: float | None = Field(None, ge=0, description="seconds until the change; null: never")
    share: float = Field(0.5, ge=0, le=1, description="of the items that change their place")
    new_items: float = Field(0.1, ge=0, le=1, description="of the items that new ones replace")


class SimulateSettings(Settings):
    """Settings of the simulator."""

    kafka: Broker = Broker()
    events_topic: str = Field("user-events", description="topic the events go to")
    recommendations_topic: str = Field("recommendations", description="topic the lists come from")
    bundle: str | None = Field(
        "models/starter/online-retail",
        description="folder of the bundle whose items and neighbours are taken; null: synthetic",
    )
    items: int = Field(2000, ge=1, description="how many synthetic items")
    clusters: int = Field(60, ge=1, description="clusters of items")
    users: int = Field(20_000, ge=1, description="shoppers who come in turn")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of tastes and decisions")
    run: int | None = Field(
        None,
        ge=0,
        lt=1 << 63,
        description="another run, other visits of the same shoppers; null: the time of the start",
    )
    rate: float = Field(50.0, gt=0, description="events a second")
    seconds: float | None = Field(None, gt=0, description="length; null: until Ctrl-C")
    think_s: float = Field(15.0, gt=0, description="seconds between two events of a shopper")
    shopping: Shopping = Shopping()
    drift: DriftSettings = DriftSettings()

    @property
    def count(self) -> int | None:
        """How many events there are until the end, None where there is none."""
        return None if self.seconds is None else max(round(self.seconds * self.rate), 1)

    @property
    def at_once(self) -> int:
        """Visits side by side that give `rate` at one event every `think_s` (Little's law)."""
        return max(round(self.rate * self.think_s), 1)


def crowd(settings: SimulateSettings, now_ms: int) -> Crowd:
    """The shoppers of the settings; raises SettingsError for what does not fit together."""
    if settings.users < settings.at_once:
        raise SettingsError(
            f"simulate was not started: expected at least {settings.at_once} users, since so many "
            f"are there at once (rate · think_s); got {settings.users}"
        )
    run = now_ms if settings.run is None else settings.run
    clock = Clock(now_ms, 1000 / settings.rate)
    try:
        return Crowd(population(settings, now_ms), clock, settings.at_once, run)
    except (ValueError, OSError) as error:  # a BundleError is a ValueError
        raise SettingsError(f"simulate was not started: {error}") from None


def population(settings: SimulateSettings, start_ms: int) -> Population:
    """The shoppers and their tastes before and after the drift."""
    before, drift = tastes(settings), settings.drift
    change = None
    if drift.after_s is not None:
        after = before.drifted(drift.share, drift.new_items, settings.seed)
        change = Drift(start_ms + round(drift.after_s * 1000), after)
    return Population(before, settings.users, settings.seed, settings.shopping, change)


def tastes(settings: SimulateSettings) -> Tastes:
    """The tastes before any drift; a relative folder is looked up in the checkout."""
    if settings.bundle is None:
        return synthetic_tastes(settings.items, settings.clusters, settings.seed)
    return bundle_tastes(ROOT / settings.bundle, settings.clusters, settings.seed)
