"""A program: for each line of its input it leaves a job with one Python function to a cluster."""

from __future__ import annotations

import sys

from pyflink.table import DataTypes
from pyflink.table.udf import udf

from operators.environment import Engine, table_environment


def main(jobmanager: str) -> None:
    """Print the id of each job; their Python runs inside the TaskManager."""
    engine = Engine(profile="latency", jobmanager=jobmanager, detached=True)
    env = table_environment(engine, "adding")
    env.create_temporary_function("more", udf(lambda n: n + 1, result_type=DataTypes.BIGINT()))
    env.execute_sql("CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen')")
    env.execute_sql("CREATE TABLE nowhere (n BIGINT) WITH ('connector' = 'blackhole')")
    for _ in sys.stdin:
        job = env.execute_sql("INSERT INTO nowhere SELECT more(n) FROM numbers").get_job_client()
        print(job.get_job_id(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
