"""One bounded job that decodes a topic in the way named and keeps nothing."""

from __future__ import annotations

import sys
import time

from operators import decoding, kafka
from operators.environment import Engine, table_environment
from operators.kafka import Kafka
from operators.sql import quoted

SINK = "CREATE TEMPORARY TABLE sink (a STRING, b STRING) WITH ('connector' = 'blackhole')"


def query(env, way: str, bootstrap: str, topic: str) -> str:  # type: ignore[no-untyped-def]
    """The SELECT that decodes; its tables are registered in `env`."""
    if way == "json":
        env.execute_sql(f"""
            CREATE TEMPORARY TABLE source (event_id STRING, event_type STRING, event_time BIGINT,
                user_id STRING, items ARRAY<ROW<item_id STRING, price DOUBLE>>) WITH (
                'connector' = 'kafka', 'topic' = {quoted(topic)}, 'format' = 'json',
                'properties.bootstrap.servers' = {quoted(bootstrap)},
                'properties.group.id' = 'json', 'scan.startup.mode' = 'earliest-offset',
                'scan.bounded.mode' = 'latest-offset')""")
        return "SELECT user_id, CONCAT(event_id, event_type, items[1].item_id) FROM source"
    source = Kafka(bootstrap=bootstrap, group=way, start="earliest", bounded=True)
    kafka.raw_source(env, "source", topic, source)
    if way == "raw":
        return "SELECT CAST(`key` AS STRING), CAST(`value` AS STRING) FROM source"
    if way == "sql":
        paths = ("event_id", "event_type", "event_time", "items[0].item_id")
        parts = ", ".join(f"JSON_VALUE(CAST(`value` AS STRING), '$.{path}')" for path in paths)
        user = "JSON_VALUE(CAST(`value` AS STRING), '$.user_id')"
        return f"SELECT {user}, CONCAT({parts}) FROM source"
    decoded = decoding.decode(env, "source", way)  # type: ignore[arg-type]
    return f"SELECT `user_id`, `event` FROM {decoding.valid(env, decoded)}"


def main(way: str, bootstrap: str, topic: str) -> None:
    """Run it and print the seconds it took."""
    profile = "latency" if way == "thread" else "throughput"
    env = table_environment(Engine(profile=profile, parallelism=2), f"decoding-{way}")
    env.execute_sql(SINK)
    select = query(env, way, bootstrap, topic)
    begin = time.perf_counter()
    env.execute_sql(f"INSERT INTO sink {select}").wait()
    print(time.perf_counter() - begin)


if __name__ == "__main__":
    main(*sys.argv[1:4])
