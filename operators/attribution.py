"""Lists and actions → which action belongs to which list, by event time within a horizon."""

from __future__ import annotations

from pyflink.table import Table, TableEnvironment

from operators.decoding import decode_by, rejected
from operators.sql import interval
from operators.windows import LATE, by_user
from udfs.flink import Mode, counting, crediting, decoding_actions, decoding_lists

# An action whose list cannot be found or told of is written aside as it came.
_RAW = {
    "key": "BYTES",
    "value": "BYTES",
    "headers": "MAP<STRING, BYTES>",
    "topic": "STRING",
    "partition": "INT",
    "offset": "BIGINT",
}
_RAW_COLUMNS = ", ".join(f"`{name}`" for name in _RAW)
_NO_RAW_COLUMNS = ", ".join(f"CAST(NULL AS {kind}) AS `{name}`" for name, kind in _RAW.items())
# The newest actions of a list in which a revision looks for what changed; finals look at all.
REMEMBERED_ACTIONS = 100


def decode_lists(env: TableEnvironment, source: str, mode: Mode) -> Table:
    """Add to each raw recommendation `decoded`: ROW<user_id, recommendation_id, list, reason>."""
    return decode_by(env, source, "decode_list", decoding_lists(mode))


def decode_actions(env: TableEnvironment, source: str, mode: Mode) -> Table:
    """Add to each raw event `decoded`: ROW<user_id, recommendation_id, action, reason>."""
    return decode_by(env, source, "decode_action", decoding_actions(mode))


def of_users(env: TableEnvironment, lists: Table, actions: Table) -> Table:
    """The lists, and the actions that name none, where all of a user's are.

    Columns: user_id; list or action, the text of whichever it is; rowtime; and the raw ones, which
    are null of a list.
    """
    both = env.sql_query(f"""
        SELECT `decoded`.`user_id` AS `user_id`, `decoded`.`list` AS `list`,
               CAST(NULL AS STRING) AS `action`, `rowtime`, {_NO_RAW_COLUMNS}
        FROM {lists} WHERE `decoded`.`reason` IS NULL
        UNION ALL
        SELECT `decoded`.`user_id` AS `user_id`, CAST(NULL AS STRING) AS `list`,
               `decoded`.`action` AS `action`, `rowtime`, {_RAW_COLUMNS}
        FROM {actions}
        WHERE `decoded`.`action` IS NOT NULL AND `decoded`.`recommendation_id` IS NULL""")
    return by_user(env, both)


def attributed(
    env: TableEnvironment,
    lists: Table,
    actions: Table,
    users: Table,
    horizon_s: float,
    disorder_s: float,
) -> Table:
    """Join each action with its list; the list's columns are null where there is none.

    `users` are lists and unnamed actions as `of_users` gives them.

    Columns: recommendation_id; action, its text; list, its text; rowtime, the list's; is_open,
    whether the list has not had its final record yet; and the raw ones of an action that named
    its list. An action counts to `horizon_s` after its list's time; and, for clocks differ, from
    `disorder_s` before it. The watermark lies `horizon_s` further behind than that of the
    sources: a list is closed when it passes the list's rowtime.
    """
    named = env.sql_query(f"""
        SELECT `decoded`.`recommendation_id` AS `recommendation_id`,
               `decoded`.`action` AS `action`, `rowtime`, {_RAW_COLUMNS}
        FROM {actions}
        WHERE `decoded`.`action` IS NOT NULL AND `decoded`.`recommendation_id` IS NOT NULL""")
    made = env.sql_query(f"""
        SELECT `decoded`.`recommendation_id` AS `made_id`, `decoded`.`list` AS `list`,
               `rowtime` AS `made_at`
        FROM {lists} WHERE `decoded`.`reason` IS NULL""")
    every = named.union_all(_credited(env, users, horizon_s))
    pairs = env.sql_query(f"""
        SELECT `recommendation_id`, `action`, `list`, `made_at`, `rowtime` AS `acted_at`,
               {_RAW_COLUMNS}
        FROM {every} LEFT JOIN {made} ON `recommendation_id` = `made_id`
            AND `made_at` BETWEEN `rowtime` - {interval(horizon_s)}
                              AND `rowtime` + {interval(min(disorder_s, horizon_s))}""")
    return env.sql_query(f"""
        SELECT `recommendation_id`, `action`, `list`, `made_at` AS `rowtime`,
               COALESCE(`made_at` > CURRENT_WATERMARK(`made_at`), `made_at` IS NOT NULL)
                   AS `is_open`, {_RAW_COLUMNS}
        FROM {pairs}""")


def _credited(env: TableEnvironment, users: Table, horizon_s: float) -> Table:
    """The actions that name no list, each credited to the newest of its user's that it fits.

    Both wait for the watermark and are taken in order of event time, so that the order of
    arrival does not matter; what is behind the watermark already has no part in it.
    """
    env.create_temporary_function("credit", crediting(round(horizon_s * 1000)))
    recent = env.sql_query(f"""
        SELECT `action`, `rowtime`, LISTAGG(`list`) OVER (
            PARTITION BY `user_id` ORDER BY `rowtime`
            RANGE BETWEEN {interval(horizon_s)} PRECEDING AND CURRENT ROW) AS `lists`
        FROM {users} WHERE NOT {LATE}""")
    return env.sql_query(f"""
        SELECT `recommendation_id`, `credited`.`action` AS `action`, `rowtime`, {_NO_RAW_COLUMNS}
        FROM {recent}, LATERAL TABLE(credit(`lists`, {recent}.`action`))
            AS `credited`(`recommendation_id`, `action`)
        WHERE {recent}.`action` IS NOT NULL AND `lists` IS NOT NULL""")


def running(env: TableEnvironment, pairs: Table) -> Table:
    """After each action: its list, and the list's last actions, in order of arrival."""
    return env.sql_query(f"""
        SELECT `recommendation_id`, `list`, `is_open`, LISTAGG(`action`) OVER (
            PARTITION BY `recommendation_id` ORDER BY `arrival`
            ROWS BETWEEN {REMEMBERED_ACTIONS - 1} PRECEDING AND CURRENT ROW) AS `actions`
        FROM (SELECT *, PROCTIME() AS `arrival` FROM {pairs})""")


def closed(env: TableEnvironment, pairs: Table) -> Table:
    """Each list with all of its actions, once its horizon is behind the watermark."""
    found = env.sql_query(f"SELECT * FROM {pairs} WHERE `is_open`")
    return env.sql_query(f"""
        SELECT `recommendation_id`, MIN(`list`) AS `list`, LISTAGG(`action`) AS `actions`
        FROM TABLE(TUMBLE(TABLE {found}, DESCRIPTOR(`rowtime`), INTERVAL '1' SECOND))
        GROUP BY `recommendation_id`, `window_start`, `window_end`""")


def late(env: TableEnvironment, users: Table, pairs: Table) -> Table:
    """Actions that no final record will tell of, in the form of dead letters."""
    env.create_temporary_function("count_late", counting("late"))
    return rejected(
        env,
        f"""SELECT {_RAW_COLUMNS}, `reason` FROM (
            SELECT {_RAW_COLUMNS}, 'behind the watermark' AS `why`
            FROM {users} WHERE `action` IS NOT NULL AND {LATE}
            UNION ALL
            SELECT {_RAW_COLUMNS}, CASE WHEN `list` IS NULL
                THEN 'no list of its recommendation_id within the horizon'
                ELSE 'after the final record of its list' END AS `why`
            FROM {pairs} WHERE NOT `is_open` AND `topic` IS NOT NULL),
            LATERAL TABLE(count_late(`why`)) AS `counted`(`reason`)""",
        "attribute",
        "late_event",
    )
