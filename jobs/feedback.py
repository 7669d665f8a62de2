"""What users did with each list: revisions as they act, a final record when its horizon is over.

user-events ──── decode ─┬─ actions ─┐
                         └─ dead letters ─────────────────────────────── dead-letters
recommendations ─ decode ┬─ lists ───┴─ attribute ─┬─ running ─ revise ─┐
                         │                         ├─ closed ── finish ─┴─ feedback
                         │                         └─ too late, no list ── late-events
                         └─ dead letters ─────────────────────────────── dead-letters
"""

from __future__ import annotations

from pydantic import Field
from pyflink.table import StatementSet, Table, TableEnvironment

from jobs.settings import Settings, SettingsError
from operators import attribution, decoding, kafka
from operators.environment import Engine, mode_of, table_environment
from operators.kafka import Delivery, DeliveryError, Kafka, require_transactions
from operators.running import run
from operators.sql import cloud_event
from operators.topics import TopicsError, require_topics, warn_of_clocks
from udfs.flink import finishing, revising


class FeedbackSettings(Settings, Delivery):
    """Settings of the feedback job."""

    kafka: Kafka = Kafka(group="streamrec-feedback")
    engine: Engine = Engine(profile="throughput")
    events_topic: str = Field("user-events", description="topic the events are read from")
    recommendations_topic: str = Field("recommendations", description="topic of the lists")
    feedback_topic: str = Field("feedback", description="topic of the feedback")
    late_events_topic: str = Field("late-events", description="topic of what no list tells of")
    dead_letters_topic: str = Field("dead-letters", description="topic of what is not valid")
    horizon_s: float = Field(
        1800, gt=0, le=604_800, description="seconds after its event in which a list earns labels"
    )
    out_of_order_s: float = Field(
        10, ge=0, description="seconds a record may lag behind the newest of its partition"
    )
    idle_s: float = Field(
        30, gt=0, description="seconds of silence after which a partition is not waited for"
    )


def pipeline(
    env: TableEnvironment,
    events: str,
    recommendations: str,
    feedback: str,
    late: str,
    dead: str,
    settings: FeedbackSettings,
) -> StatementSet:
    """Wire the job between the source tables `events`, `recommendations` and its three sinks."""
    mode = mode_of(settings.engine)
    actions = attribution.decode_actions(env, events, mode)
    lists = attribution.decode_lists(env, recommendations, mode)
    users = attribution.of_users(env, lists, actions)
    times = (settings.horizon_s, settings.out_of_order_s)
    pairs = attribution.attributed(env, lists, actions, users, *times)
    revised = revise(env, attribution.running(env, pairs))
    finished = finish(env, attribution.closed(env, pairs))
    no_event = decoding.dead_letters(env, actions)
    no_list = decoding.dead_letters(env, lists, "decode_recommendation")
    statements = env.create_statement_set()
    statements.add_insert(feedback, revised.union_all(finished))
    statements.add_insert(late, attribution.late(env, users, pairs))
    statements.add_insert(dead, no_event.union_all(no_list))
    return statements


def revise(env: TableEnvironment, running: Table) -> Table:
    """What each list's newest action changes, as Kafka records with CloudEvents headers."""
    env.create_temporary_function("revise", revising())
    return _records(env, f"{running}, LATERAL TABLE(revise(`list`, `actions`, `is_open`))")


def finish(env: TableEnvironment, closed: Table) -> Table:
    """The final records of each list, as Kafka records with CloudEvents headers."""
    env.create_temporary_function("finish", finishing())
    return _records(env, f"{closed}, LATERAL TABLE(finish(`list`, `actions`))")


def _records(env: TableEnvironment, told: str) -> Table:
    return env.sql_query(f"""
        SELECT ENCODE(`recommendation_id`, 'UTF-8') AS `key`,
               ENCODE(`message`, 'UTF-8') AS `value`,
               {cloud_event("feedback", "identity", "moment")} AS `headers`
        FROM {told} AS `told`(`identity`, `moment`, `message`)""")


def main(settings: FeedbackSettings) -> int:
    """Run between Kafka topics until stopped, or to the end where `kafka.bounded` is set."""
    sources = (settings.events_topic, settings.recommendations_topic)
    sinks = (settings.feedback_topic, settings.late_events_topic, settings.dead_letters_topic)
    try:
        require_topics(settings.kafka, [*sources, *sinks])
        require_transactions(settings.kafka, settings, settings.engine.checkpoint_interval_s)
        warn_of_clocks(settings.kafka, sources)
    except (TopicsError, DeliveryError) as error:
        raise SettingsError(f"feedback was not started: {error}") from None
    env = table_environment(settings.engine, "feedback")
    env.get_config().set("table.exec.source.idle-timeout", f"{round(settings.idle_s * 1000)} ms")
    # Only the running window of a list, kept for revisions, is dropped by the clock.
    kept_s = 2 * (settings.horizon_s + settings.out_of_order_s + settings.idle_s)
    env.get_config().set("table.exec.state.ttl", f"{round(kept_s * 1000)} ms")
    lag_s = settings.out_of_order_s
    for name, topic in zip(("user_events", "recommendations"), sources, strict=True):
        kafka.raw_source(env, name, topic, settings.kafka, lag_s, kafka.UNHURRIED)
    for name, topic in zip(("told", "late", "dead"), sinks, strict=True):
        kafka.raw_sink(env, name, topic, settings.kafka, delivery=settings)
    statements = pipeline(env, "user_events", "recommendations", "told", "late", "dead", settings)
    return run(env, statements, "feedback", settings.engine)
