"""The identity job: json decode, one expression, Kafka to Kafka, no Python on the way."""

from __future__ import annotations

import sys

from operators.environment import Engine, table_environment
from operators.sql import quoted


def main(bootstrap: str, source: str, sink: str) -> None:
    """Run until ended, with the options of the latency profile."""
    env = table_environment(Engine(profile="latency"), "identity")
    env.execute_sql(f"""
        CREATE TEMPORARY TABLE source (event_id STRING, user_id STRING, event_time BIGINT) WITH (
            'connector' = 'kafka', 'topic' = {quoted(source)},
            'properties.bootstrap.servers' = {quoted(bootstrap)},
            'properties.group.id' = 'identity', 'scan.startup.mode' = 'earliest-offset',
            'format' = 'json')""")
    env.execute_sql(f"""
        CREATE TEMPORARY TABLE sink (`value` STRING) WITH (
            'connector' = 'kafka', 'topic' = {quoted(sink)},
            'properties.bootstrap.servers' = {quoted(bootstrap)},
            'properties.linger.ms' = '0', 'format' = 'raw')""")
    env.execute_sql(
        "INSERT INTO sink SELECT CONCAT(event_id, ' ', user_id, ' ',"
        " CAST(event_time AS STRING)) FROM source"
    ).wait()


if __name__ == "__main__":
    main(*sys.argv[1:4])
