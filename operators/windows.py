"""The windows over a user's events: running (by arrival) and closed (by event time)."""

from __future__ import annotations

from pyflink.table import Table, TableEnvironment

from operators.decoding import rejected
from operators.sql import interval

SEPARATOR = "U&'\\001E'"  # as SQL; udfs.flink splits at it
_LATE = "COALESCE(`rowtime` <= CURRENT_WATERMARK(`rowtime`), FALSE)"


def running(env: TableEnvironment, events: Table, size: int) -> Table:
    """After each event: the user's last `size` events, in order of arrival.

    `window` joins their compact texts by commas, the newest last. There is one shuffle, by
    user, so the order is that of the Kafka partition and no watermark is waited for. With them
    go `partition`, which all events of a user share, and `arrival`.
    """
    return env.sql_query(f"""
        SELECT `user_id`, LISTAGG(`event`) OVER (
            PARTITION BY `user_id` ORDER BY `arrival`
            ROWS BETWEEN {size - 1} PRECEDING AND CURRENT ROW) AS `window`, `partition`, `arrival`
        FROM (SELECT *, PROCTIME() AS `arrival` FROM {events})""")


def batched(env: TableEnvironment, windows: Table, milliseconds: int, slots: int) -> Table:
    """The windows of some milliseconds in one row: what is computed together costs far less.

    `users` joins the users as JSON strings by commas, `windows` their windows by the control
    character SEPARATOR, which JSON never holds; both in order of arrival. A user's windows
    stay in one slot, and so in order.
    """
    slot = f"MOD(`partition`, {slots})"
    return env.sql_query(f"""
        SELECT LISTAGG(JSON_QUOTE(`user_id`)) AS `users`,
               LISTAGG(`window`, {SEPARATOR}) AS `windows`
        FROM TABLE(TUMBLE(
            TABLE {windows}, DESCRIPTOR(`arrival`), {interval(milliseconds / 1000)}))
        GROUP BY `window_start`, `window_end`, {slot}""")


def on_time(env: TableEnvironment, decoded: Table) -> Table:
    """The events that are not behind the watermark: user_id, event and rowtime."""
    return env.sql_query(f"""
        SELECT `decoded`.`user_id` AS `user_id`, `decoded`.`event` AS `event`, `rowtime`
        FROM {decoded} WHERE `decoded`.`reason` IS NULL AND NOT ({_LATE})""")


def late(env: TableEnvironment, decoded: Table) -> Table:
    """The events behind the watermark, in the form of dead letters; windows would drop them."""
    return rejected(
        env,
        f"""SELECT *, 'behind the watermark' AS `reason`
            FROM {decoded} WHERE `decoded`.`reason` IS NULL AND {_LATE}""",
        "late",
        "late_event",
    )


def closed(env: TableEnvironment, events: Table, gap_s: int) -> Table:
    """The events of a user between two gaps, once the watermark has passed: user_id, events.

    `events` joins their compact texts by commas; events of one time are in order of arrival.
    """
    return env.sql_query(f"""
        SELECT `user_id`, LISTAGG(`event`) AS `events`
        FROM TABLE(SESSION(TABLE {events} PARTITION BY `user_id`,
            DESCRIPTOR(`rowtime`), {interval(gap_s)}))
        GROUP BY `user_id`, `window_start`, `window_end`""")
