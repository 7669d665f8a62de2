"""The windows over a user's events: running (by arrival) and closed (by event time)."""

from __future__ import annotations

from pyflink.table import Table, TableEnvironment

from operators.decoding import rejected
from operators.sql import interval
from udfs.events import TYPE_CODES

SEPARATOR = "U&'\\001E'"  # as SQL; udfs.flink splits at it
# A name of any characters as one that can be joined; JSON_QUOTE breaks some of them (Flink 2.3).
PLAIN_USER = "TO_BASE64(`user_id`)"
_IS_END = f"JSON_VALUE(`event`, '$[1]') = '{TYPE_CODES['session_end']}'"
LATE = "COALESCE(`rowtime` <= CURRENT_WATERMARK(`rowtime`), FALSE)"


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

    `users` joins the users in base64 by commas, `windows` their windows by the control
    character SEPARATOR, which JSON never holds; both in order of arrival. A user's windows
    stay in one slot, and so in order.
    """
    slot = f"MOD(`partition`, {slots})"
    return env.sql_query(f"""
        SELECT LISTAGG({PLAIN_USER}) AS `users`,
               LISTAGG(`window`, {SEPARATOR}) AS `windows`
        FROM TABLE(TUMBLE(
            TABLE {windows}, DESCRIPTOR(`arrival`), {interval(milliseconds / 1000)}))
        GROUP BY `window_start`, `window_end`, {slot}""")


def by_user(env: TableEnvironment, rows: Table) -> Table:
    """The rows, each where all of its `user_id` are, and so at the watermark of all sources.

    What comes out of a partition that stood still is behind the watermark of the others, but not
    behind that of its own source: only here `LATE` says what windows drop.
    """
    # The count, one number a user, is there for the shuffle; it is let in whatever it is.
    return env.sql_query(f"""
        SELECT * FROM (
            SELECT *, COUNT(*) OVER (PARTITION BY `user_id` ORDER BY `arrival`) AS `number`
            FROM (SELECT *, PROCTIME() AS `arrival` FROM {rows}))
        WHERE `number` > 0""")


def on_time(env: TableEnvironment, users: Table) -> Table:
    """Of what `by_user` gives the events that are not behind the watermark."""
    return env.sql_query(f"""
        SELECT `user_id`, `decoded`.`event` AS `event`, `rowtime`
        FROM {users} WHERE NOT ({LATE})""")


def late(env: TableEnvironment, users: Table) -> Table:
    """Those behind the watermark, in the form of dead letters; windows would drop them."""
    return rejected(
        env,
        f"SELECT *, 'behind the watermark' AS `reason` FROM {users} WHERE {LATE}",
        "late",
        "late_event",
    )


def closed(env: TableEnvironment, events: Table, gap_ms: int) -> Table:
    """A user's events between two gaps, once the watermark has passed: user_id, events, end.

    `events` joins their compact texts by commas; events of one time are in order of arrival.
    `end` is empty. An event that lies exactly `gap_ms` after another still belongs to it: the
    window is a millisecond longer, so that the watermark finds such an event late, or it is in.
    """
    return env.sql_query(f"""
        SELECT `user_id`, LISTAGG(`event`) AS `events`, '' AS `end`
        FROM TABLE(SESSION(TABLE {events} PARTITION BY `user_id`,
            DESCRIPTOR(`rowtime`), {interval((gap_ms + 1) / 1000)}))
        GROUP BY `user_id`, `window_start`, `window_end`""")


def ended(env: TableEnvironment, events: Table, lookback_ms: int) -> Table:
    """A user's events up to each session_end, once the watermark has passed it.

    As `closed` gives them; `end` is the compact text of the session_end. The second window is
    there for a session_end that came twice: its rows are the same, and one is enough.
    """
    before = env.sql_query(f"""
        SELECT `user_id`, `event`, `rowtime`, LISTAGG(`event`) OVER (
            PARTITION BY `user_id` ORDER BY `rowtime`
            RANGE BETWEEN {interval(lookback_ms / 1000)} PRECEDING AND CURRENT ROW) AS `events`
        FROM {events}""")
    ends = env.sql_query(f"SELECT * FROM {before} WHERE {_IS_END}")
    return env.sql_query(f"""
        SELECT `user_id`, `events`, `event` AS `end`
        FROM TABLE(TUMBLE(TABLE {ends}, DESCRIPTOR(`rowtime`), {interval(1)}))
        GROUP BY `window_start`, `window_end`, `user_id`, `event`, `events`""")
