"""Closed sessions, by a gap or by an explicit session_end, each with its feature row.

user-events ─ decode ─┬─ on time ─┬─ session window ─────┬─ close ─ sessions
                      │           └─ up to a session_end ─┘
                      ├─ behind the watermark ───────────────────── late-events
                      └─ dead letters ───────────────────────────── dead-letters
"""

from __future__ import annotations

from pydantic import Field
from pyflink.table import StatementSet, Table, TableEnvironment

from jobs.settings import Settings, SettingsError
from operators import decoding, kafka, windows
from operators.environment import Engine, mode_of, table_environment
from operators.kafka import Delivery, DeliveryError, Kafka, require_transactions
from operators.running import run
from operators.sql import cloud_event
from operators.topics import TopicsError, require_topics, warn_of_clocks
from udfs.flink import closing
from udfs.sessions import Closing


class SessionsSettings(Settings, Delivery):
    """Settings of the sessions job."""

    kafka: Kafka = Kafka(group="streamrec-sessions")
    engine: Engine = Engine(profile="throughput")
    events_topic: str = Field("user-events", description="topic the events are read from")
    sessions_topic: str = Field("sessions", description="topic of the closed sessions")
    late_events_topic: str = Field("late-events", description="topic of what came too late")
    dead_letters_topic: str = Field("dead-letters", description="topic of what is no event")
    session_gap_s: int = Field(
        1800, ge=1, le=604_800, description="seconds of silence that end a session"
    )
    end_at_once_s: float = Field(
        3600,
        ge=0,
        le=604_800,
        description="seconds since the user's last silence within which a session_end closes at "
        "once; later ones close when the silence has come",
    )
    out_of_order_s: float = Field(
        10, ge=0, description="seconds an event may lag behind the newest of its partition"
    )
    idle_s: float = Field(
        30, gt=0, description="seconds of silence after which a partition is not waited for"
    )


def pipeline(
    env: TableEnvironment,
    events: str,
    sessions: str,
    late: str,
    dead: str,
    settings: SessionsSettings,
) -> StatementSet:
    """Wire the job between the source table `events` and its three sinks."""
    decoded = decoding.decode(env, events, mode_of(settings.engine))
    users = windows.by_user(env, decoding.accepted(env, decoded))
    on_time, rule = windows.on_time(env, users), closing_rule(settings)
    silent = windows.closed(env, on_time, rule.gap_ms)
    ended = windows.ended(env, on_time, rule.lookback_ms)
    statements = env.create_statement_set()
    statements.add_insert(sessions, close(env, silent.union_all(ended), rule))
    statements.add_insert(late, windows.late(env, users))
    statements.add_insert(dead, decoding.dead_letters(env, decoded))
    return statements


def closing_rule(settings: SessionsSettings) -> Closing:
    """When sessions close, in event time."""
    return Closing(settings.session_gap_s * 1000, round(settings.end_at_once_s * 1000))


def close(env: TableEnvironment, windows: Table, rule: Closing) -> Table:
    """Cut each window into sessions and write them as Kafka records with CloudEvents headers."""
    env.create_temporary_function("close_sessions", closing(rule))
    return env.sql_query(f"""
        SELECT ENCODE(`user_id`, 'UTF-8') AS `key`, ENCODE(`message`, 'UTF-8') AS `value`,
               {cloud_event("session", "session_id", "ended")} AS `headers`
        FROM {windows}, LATERAL TABLE(close_sessions(`user_id`, `events`, `end`))
            AS `closed`(`session_id`, `ended`, `message`)""")


def main(settings: SessionsSettings) -> int:
    """Run between Kafka topics until stopped, or to the end where `kafka.bounded` is set."""
    sinks = (settings.sessions_topic, settings.late_events_topic, settings.dead_letters_topic)
    try:
        require_topics(settings.kafka, [settings.events_topic, *sinks])
        require_transactions(settings.kafka, settings, settings.engine.checkpoint_interval_s)
        warn_of_clocks(settings.kafka, [settings.events_topic])
    except (TopicsError, DeliveryError) as error:
        raise SettingsError(f"sessions was not started: {error}") from None
    env = table_environment(settings.engine, "sessions")
    env.get_config().set("table.exec.source.idle-timeout", f"{round(settings.idle_s * 1000)} ms")
    # Of what is dropped by the clock, the count by which users are shuffled, nobody asks the value.
    env.get_config().set("table.exec.state.ttl", f"{round(settings.session_gap_s * 1000)} ms")
    topic, lag_s = settings.events_topic, settings.out_of_order_s
    kafka.raw_source(env, "user_events", topic, settings.kafka, lag_s, kafka.UNHURRIED)
    for name, topic in zip(("closed", "late", "dead"), sinks, strict=True):
        kafka.raw_sink(env, name, topic, settings.kafka, delivery=settings)
    statements = pipeline(env, "user_events", "closed", "late", "dead", settings)
    return run(env, statements, "sessions", settings.engine)
