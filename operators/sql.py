"""Pieces of SQL that several tables and jobs share."""

from __future__ import annotations


def cloud_event(kind: str, identity: str, time: str) -> str:
    """SQL for the headers of a message: CloudEvents in binary mode.

    `identity` and `time` name STRING columns: what makes the message unique, and when in RFC 3339.
    """
    return (
        f"MAP['ce_specversion', ENCODE('1.0', 'UTF-8'), 'ce_id', ENCODE(`{identity}`, 'UTF-8'),"
        f" 'ce_type', ENCODE('streamrec.{kind}', 'UTF-8'),"
        f" 'ce_source', ENCODE('streamrec', 'UTF-8'), 'ce_time', ENCODE(`{time}`, 'UTF-8'),"
        f" 'content-type', ENCODE('application/json', 'UTF-8')]"
    )


def quoted(text: str) -> str:
    """The text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def interval(seconds: float) -> str:
    """Seconds, to the millisecond and below 100 days, as an SQL interval literal."""
    milliseconds = round(seconds * 1000)
    days, milliseconds = divmod(milliseconds, 86_400_000)
    hours, milliseconds = divmod(milliseconds, 3_600_000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    clock = f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"
    return f"INTERVAL '{days} {clock}' DAY TO SECOND(3)"
