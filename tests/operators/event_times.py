"""A program: records as hex lines in, the event time that Flink's SQL reads out of each as JSON."""

from __future__ import annotations

import atexit
import json
import shutil
import sys
import tempfile

from pyflink.table import DataTypes

from operators.environment import Engine, table_environment
from operators.kafka import event_time_ms


def main(received_ms: int) -> None:
    """Read standard input to its end and print one list, in the same order."""
    values = [bytearray.fromhex(line) for line in sys.stdin]
    env = table_environment(Engine(), "event-times")
    fields = [
        DataTypes.FIELD("number", DataTypes.INT()),
        DataTypes.FIELD("value", DataTypes.BYTES()),
    ]
    records = env.from_elements(list(enumerate(values)), DataTypes.ROW(fields))
    query = f"""
        SELECT `number`, {event_time_ms()}
        FROM (SELECT *, TO_TIMESTAMP_LTZ({received_ms}, 3) AS `received` FROM {records})"""
    with env.execute_sql(query).collect() as rows:
        found = dict(tuple(row) for row in rows)
    print(json.dumps([found[number] for number in range(len(values))]))


if __name__ == "__main__":
    tempfile.tempdir = tempfile.mkdtemp()  # PyFlink leaves the folder of `from_elements` behind
    atexit.register(shutil.rmtree, tempfile.tempdir)
    main(int(sys.argv[1]))
