"""Every event that may change what a user wants is answered with a ranked list.

user-events ─ decode ─┬─ running window ─ recommend ─ recommendations
                      └─ dead letters ──────────────── dead-letters
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import Field, field_validator
from pyflink.table import StatementSet, Table, TableEnvironment

from jobs.settings import Settings, SettingsError
from models.bundle import BundleError
from models.history import RegistryError
from models.recommender import Settings as Ranking
from models.serving import Served, Serving
from operators import decoding, kafka, windows
from operators.environment import ROOT, Engine, Mode, mode_of, table_environment
from operators.kafka import Delivery, DeliveryError, Kafka, require_transactions
from operators.ranges import Range
from operators.running import run
from operators.sql import cloud_event
from operators.topics import TopicsError, require_topics
from udfs.events import EVENT_TYPES
from udfs.flink import recommending
from udfs.recommend import Rules

# Kafka's consumer and producer in each profile. A request for every event or list costs more than
# the event itself, on both sides: they wait a few milliseconds for one another. Compressing the few
# lists that then go together would make garbage of 128 KB for each partition, and pauses with it.
_CLIENTS = {
    "latency": (
        {"fetch.min.bytes": "65536", "fetch.max.wait.ms": "4"},
        {"linger.ms": "2", "compression.type": "none"},
    ),
    "throughput": ({}, {"linger.ms": "20"}),
}


class Answers(Settings):
    """What answers an event, and how: the same for live and replayed events."""

    bundle: str = Field(
        "models/starter/online-retail", description="folder of the bundle, as `train` writes it"
    )
    registry: str = Field(
        "", description="folder or URI of a registry, whose bundles answer from when they act"
    )
    bundles_kept: int = Field(
        3, ge=2, description="bundles of the registry that are kept in memory"
    )
    triggers: tuple[str, ...] = Field(
        (
            "select_item",
            "view_item",
            "add_to_cart",
            "add_to_wishlist",
            "purchase",
            "search",
            "recommendation_request",
        ),
        description="event types that are answered with a list",
    )
    window: int = Field(20, ge=1, le=1000, description="last events of a user that are looked at")
    session_gap_s: float = Field(1800, gt=0, description="seconds of silence that end a session")
    state_ttl_s: float = Field(
        86_400,
        gt=0,
        description="seconds by which an event may be older than the newest of its user and count; "
        "after as long without events the user's window is dropped",
    )
    list_size: int = Field(20, ge=1, le=1000, description="items of a list")
    exclude_seen: bool = Field(True, description="leave out items already in the session")

    @field_validator("triggers")
    @classmethod
    def _are_event_types(cls, triggers: tuple[str, ...]) -> tuple[str, ...]:
        for name in triggers:
            if name not in EVENT_TYPES:
                raise ValueError(f"expected event types of {', '.join(EVENT_TYPES)}; got {name}")
        return triggers


class RecommendSettings(Answers, Delivery):
    """Settings of the recommend job."""

    kafka: Kafka = Kafka(group="streamrec-recommend")
    engine: Engine = Engine()
    events_topic: str = Field("user-events", description="topic the events are read from")
    recommendations_topic: str = Field("recommendations", description="topic of the lists")
    dead_letters_topic: str = Field("dead-letters", description="topic of what is no event")
    poll_s: float = Field(2, gt=0, description="seconds between two looks at the registry")
    budget_ms: float = Field(
        20, gt=0, description="milliseconds a list may take; a slower bundle is refused"
    )
    batch_ms: int = Field(
        5,
        ge=0,
        le=1000,
        description="latency profile: milliseconds for which windows wait to be answered together",
    )


CLOCKLESS = dict.fromkeys(("poll_s", "budget_ms"), 1e9)
"""Settings by which the wall clock changes no answer: no poll, no budget."""


@dataclass(frozen=True)
class Past:
    """A part of the events topic that is over: offsets by partition, and their watermark."""

    ranges: Mapping[int, Range]
    out_of_order_s: float  # how far the watermark is behind the newest event of each partition
    once_up: Callable[[], None] | None = None  # called when the job runs


def pipeline(
    env: TableEnvironment, events: str, lists: str, dead: str, settings: RecommendSettings
) -> StatementSet:
    """Wire the job between the source table `events` and the sinks `lists` and `dead`."""
    mode = mode_of(settings.engine)
    decoded = decoding.decode(env, events, mode)
    window = windows.running(env, decoding.valid(env, decoded), settings.window)
    answered = recommend(env, window, mode, settings)
    statements = env.create_statement_set()
    statements.add_insert(lists, answered)
    statements.add_insert(dead, decoding.dead_letters(env, decoded))
    return statements


def recommend(
    env: TableEnvironment, window: Table, mode: Mode, settings: RecommendSettings
) -> Table:
    """Answer each window, as Kafka records with CloudEvents headers; some windows get no list."""
    gap_ms, kept_ms = round(settings.session_gap_s * 1000), round(settings.state_ttl_s * 1000)
    rules = Rules(settings.triggers, gap_ms, kept_ms)
    ranking = Ranking(list_size=settings.list_size, exclude_seen=settings.exclude_seen)
    function = recommending(mode, served(settings), rules, ranking)
    env.create_temporary_function("recommend", function)
    answered = _together(env, window, settings) if mode == "thread" else _in_batches(env, window)
    return env.sql_query(f"""
        SELECT ENCODE(`user_id`, 'UTF-8') AS `key`, ENCODE(`value`, 'UTF-8') AS `value`,
               {cloud_event("recommendation", "recommendation_id", "event_time")} AS `headers`
        FROM {answered}""")


def _together(env: TableEnvironment, window: Table, settings: RecommendSettings) -> Table:
    """Row by row, where a row holds the windows of `batch_ms`."""
    if settings.batch_ms == 0 or settings.kafka.bounded:  # at the end no timer would fire
        joined = env.sql_query(f"SELECT {windows.PLAIN_USER} AS `users`, `window` FROM {window}")
    else:
        joined = windows.batched(env, window, settings.batch_ms, settings.engine.parallelism)
    return env.sql_query(f"""
        SELECT `user_id`, `recommendation_id`, `event_time`, `value`
        FROM {joined} AS `joined`(`users`, `windows`),
             LATERAL TABLE(recommend(`users`, `windows`))
                AS `list`(`user_id`, `recommendation_id`, `event_time`, `value`)""")


def _in_batches(env: TableEnvironment, window: Table) -> Table:
    """Arrow batches, as large as the profile says."""
    answered = env.sql_query(
        f"SELECT `user_id`, recommend(`user_id`, `window`) AS `list` FROM {window}"
    )
    return env.sql_query(f"""
        SELECT `user_id`, `list`.`recommendation_id`, `list`.`event_time`, `list`.`value`
        FROM {answered} WHERE `list`.`value` IS NOT NULL""")


def served(settings: RecommendSettings) -> Served:
    """The bundles that answer; relative folders are looked up in the checkout."""
    registry = settings.registry
    if registry and "://" not in registry:
        registry = str((ROOT / registry).resolve())
    bundle = (ROOT / settings.bundle).resolve()
    return Served(bundle, registry, settings.poll_s, settings.budget_ms, settings.bundles_kept)


def main(settings: RecommendSettings) -> int:
    """Run between Kafka topics until stopped, or to the end where `kafka.bounded` is set."""
    topics = (settings.events_topic, settings.recommendations_topic, settings.dead_letters_topic)
    try:
        Serving(served(settings), Ranking())  # every worker does it again; here it can be said
        require_topics(settings.kafka, topics)
        require_transactions(settings.kafka, settings, settings.engine.checkpoint_interval_s)
    except (BundleError, RegistryError, TopicsError, DeliveryError, OSError) as error:
        raise SettingsError(f"recommend was not started: {error}") from None
    return answer(settings, "recommend")


def answer(settings: RecommendSettings, job: str, past: Past | None = None) -> int:
    """Run the pipeline between topics, without an end or over what is `past`: the exit code."""
    env = table_environment(settings.engine, job)
    if not settings.kafka.bounded:  # Flink goes by the clock, which must not change the past
        env.get_config().set("table.exec.state.ttl", f"{round(settings.state_ttl_s * 1000)} ms")
    fetch, linger = _CLIENTS[settings.engine.profile]
    ranges, behind_s = (past.ranges, past.out_of_order_s) if past else (None, None)
    kafka.raw_source(
        env, "user_events", settings.events_topic, settings.kafka, behind_s, fetch, ranges
    )
    topics = settings.recommendations_topic, settings.dead_letters_topic
    for name, topic, properties in zip(("lists", "dead"), topics, (linger, None), strict=True):
        kafka.raw_sink(env, name, topic, settings.kafka, properties, settings)
    statements = pipeline(env, "user_events", "lists", "dead", settings)
    once_up = past.once_up if past else None
    return run(env, statements, job, settings.engine, past is not None, once_up)
