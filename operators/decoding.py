"""Raw records → events | dead letters, by the one rule in `udfs.events`."""

from __future__ import annotations

from pyflink.table import Table, TableEnvironment

from operators.kafka import RECEIVED_MS
from udfs.flink import Mode, decoding


def decode(env: TableEnvironment, source: str, mode: Mode) -> Table:
    """Add to each raw record `decoded`: ROW<user_id, event, reason>.

    `event` is the compact text of `udfs.events.to_text`; exactly one of event and reason is set.
    """
    return decode_by(env, source, "decode_event", decoding(mode))


def decode_by(env: TableEnvironment, source: str, name: str, function: object) -> Table:
    """Add to each raw record `decoded`: what `function` makes of its value and Kafka time."""
    env.create_temporary_function(name, function)
    return env.sql_query(f"SELECT *, {name}(`value`, {RECEIVED_MS}) AS `decoded` FROM `{source}`")


def valid(env: TableEnvironment, decoded: Table) -> Table:
    """The events: user_id, the compact text of each and the partition it came from."""
    return env.sql_query(f"""
        SELECT `decoded`.`user_id` AS `user_id`, `decoded`.`event` AS `event`, `partition`
        FROM {decoded} WHERE `decoded`.`reason` IS NULL""")


def accepted(env: TableEnvironment, decoded: Table) -> Table:
    """The records that are valid, as they came, with their `user_id` beside `decoded`."""
    return env.sql_query(f"""
        SELECT *, `decoded`.`user_id` AS `user_id`
        FROM {decoded} WHERE `decoded`.`reason` IS NULL""")


def dead_letters(env: TableEnvironment, decoded: Table, stage: str = "decode") -> Table:
    """Invalid records with original bytes, key and headers, their origin and reason as headers."""
    return rejected(
        env, f"SELECT *, `decoded`.`reason` AS `reason` FROM {decoded}", stage, "dead_letter"
    )


def rejected(env: TableEnvironment, query: str, stage: str, prefix: str) -> Table:
    """Rows of `query` with a `reason`, in the form of dead letters: nothing of them is lost."""
    origin = ", ".join(
        f"'__{prefix}.{name}', ENCODE({value}, 'UTF-8')"
        for name, value in {
            "topic": "`topic`",
            "partition": "CAST(`partition` AS STRING)",
            "offset": "CAST(`offset` AS STRING)",
            "stage": f"'{stage}'",
            "reason": "`reason`",
        }.items()
    )
    return env.sql_query(f"""
        SELECT `key`, `value`, MAP_UNION(`headers`, MAP[{origin}]) AS `headers`
        FROM ({query}) WHERE `reason` IS NOT NULL""")
