"""Prints the steps of every job's graph, by which a savepoint finds them again, as JSON.

If a change of them is meant: python -m tests.jobs.graph > tests/jobs/steps.json
"""

from __future__ import annotations

import json
from typing import Any

from pyflink.java_gateway import get_gateway
from pyflink.table import StatementSet, TableEnvironment
from pyflink.util.java_utils import get_field_value

from jobs import feedback, recommend, sessions
from operators import kafka
from operators.environment import Engine, table_environment
from operators.kafka import Kafka

JOBS = ("feedback", "recommend", "sessions")
PROFILES = ("latency", "throughput")
COUNTER = "org.apache.flink.table.planner.plan.nodes.exec.ExecNodeContext"


def steps(job: str, engine: Engine) -> dict[str, list[str | None]]:
    """Steps with an id, those without, and the max parallelisms, as the job is planned first."""
    env = table_environment(engine, job)
    tables = env._j_tenv
    _count_anew(tables.getPlanner())
    operations = get_field_value(wired(env, job, engine)._j_statement_set, "operations")
    transformations = tables.getPlanner().translate(operations)
    options = env.get_config()._j_table_config.getConfiguration()
    executor = get_field_value(tables, "execEnv")
    graph = executor.createPipeline(transformations, options, job).getJobGraph()
    found: dict[str, set[str]] = {"uids": set(), "without": set(), "max_parallelism": set()}
    for vertex in list(graph.getVerticesAsArray()):
        found["max_parallelism"].add(str(vertex.getMaxParallelism()))
        pairs = vertex.getOperatorIDs()
        for pair in (pairs.get(number) for number in range(pairs.size())):
            uid, name = pair.getUserDefinedOperatorUid(), pair.getUserDefinedOperatorName()
            found["uids" if uid else "without"].add(uid or name)
    return {key: sorted(values) for key, values in found.items()}


def wired(env: TableEnvironment, job: str, engine: Engine) -> StatementSet:
    """The job between topics, as its `main` wires it."""
    timed = None if job == "recommend" else 10.0
    for name in ("events", "lists"):
        kafka.raw_source(env, name, name, Kafka(), timed)
    for name in ("told", "late", "dead"):
        kafka.raw_sink(env, name, name, Kafka())
    if job == "recommend":
        settings = recommend.RecommendSettings(engine=engine)
        return recommend.pipeline(env, "events", "told", "dead", settings)
    if job == "sessions":
        closing = sessions.SessionsSettings(engine=engine)
        return sessions.pipeline(env, "events", "told", "late", "dead", closing)
    joined = feedback.FeedbackSettings(engine=engine)
    return feedback.pipeline(env, "events", "lists", "told", "late", "dead", joined)


def _count_anew(planner: Any) -> None:
    """Number the steps as in a process that plans only once, as each job's does."""
    jvm, gateway = get_gateway().jvm, get_gateway()
    context = planner.getClass().getClassLoader().loadClass(COUNTER)
    reset = context.getDeclaredMethod("resetIdCounter", gateway.new_array(jvm.Class, 0))
    reset.invoke(None, gateway.new_array(jvm.Object, 0))


if __name__ == "__main__":
    engines = {
        f"{profile}, {slots} slots": Engine(profile=profile, parallelism=slots)
        for profile in PROFILES
        for slots in (1, 2)
    }
    told = {
        f"{job}, {name}": steps(job, engine) for job in JOBS for name, engine in engines.items()
    }
    print(json.dumps(told, indent=1))
