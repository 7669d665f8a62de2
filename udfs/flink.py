"""What Flink's Python workers run: a row and a pandas wrapper over each engine-free function.

A row wrapper runs one value at a time (thread mode), a pandas one a whole Arrow batch (process
mode). Both only hold handles: the rules are in `udfs.events` and `udfs.recommend`.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pandas as pd
from pyflink.common import Row
from pyflink.table import DataTypes, FunctionContext, ScalarFunction, TableFunction
from pyflink.table.udf import UserDefinedFunction, udf, udtf

from models.recommender import Settings as Ranking
from models.serving import COUNTS, Served, Serving
from udfs.events import InvalidEventError, decode, to_text
from udfs.recommend import Answer, Answering, Rules, Tally
from udfs.sessions import Closing

Mode = Literal["thread", "process"]


def _strings(*names: str) -> DataTypes:
    return DataTypes.ROW([DataTypes.FIELD(name, DataTypes.STRING()) for name in names])


_DECODED = ("user_id", "event", "reason")
_ANSWERED = ("recommendation_id", "event_time", "value")


def decoding(mode: Mode) -> Any:
    """(value BYTES, received BIGINT) → ROW<user_id, event, reason>, all STRING."""
    if mode == "thread":
        return udf(DecodeRow(), result_type=_strings(*_DECODED))
    return udf(DecodeBatch(), result_type=_strings(*_DECODED), func_type="pandas")


def recommending(mode: Mode, served: Served, rules: Rules, ranking: Ranking) -> Any:
    """Windows → lists: a table function in thread mode, a pandas function in process mode.

    thread: (users STRING, windows STRING) → rows of (user_id, recommendation_id, event_time,
    value), as `operators.windows.batched` joins them; windows that get no list give no row.
    process: (user_id STRING, window STRING) → ROW of the last three, or of nulls.
    """
    if mode == "thread":
        function = RecommendJoined(mode, served, rules, ranking)
        return udtf(function, result_types=[DataTypes.STRING()] * 4)
    batch = RecommendBatch(mode, served, rules, ranking)
    return udf(batch, result_type=_strings(*_ANSWERED), func_type="pandas")


def closing(rule: Closing) -> Any:
    """(user_id, events, end) → rows of (session_id, ended, message), all STRING.

    `end` is the session_end that is to close its session, or empty where the silence closes.
    """
    return udtf(CloseSessions(rule), result_types=[DataTypes.STRING()] * 3)


class _Decode(ScalarFunction):
    def open(self, function_context: FunctionContext) -> None:
        metrics = metric_group(function_context)
        self.consumed = metrics.counter("consumed")
        self.dead_letters = metrics.counter("dead_letters")

    def decode(self, value: bytes | None, received_ms: int) -> tuple[Any, Any, Any]:
        self.consumed.inc()
        try:
            user_id, event = decode(value, received_ms)
            return user_id, to_text(event), None
        except InvalidEventError as error:
            self.dead_letters.inc()
            return None, None, str(error)[:500]


class DecodeRow(_Decode):
    def eval(self, value: bytes | None, received_ms: int) -> Row:
        return Row(*self.decode(value, received_ms))


class DecodeBatch(_Decode):
    def eval(self, values: pd.Series, received_ms: pd.Series) -> pd.DataFrame:
        rows = [self.decode(*pair) for pair in zip(values, received_ms, strict=True)]
        return pd.DataFrame(rows, columns=list(_DECODED), dtype=object)


class _Recommend(UserDefinedFunction):
    """Holds the bundles of one worker: loads what acts when opened, then follows the registry."""

    def __init__(self, mode: Mode, served: Served, rules: Rules, ranking: Ranking) -> None:
        self.mode, self.served, self.rules, self.ranking = mode, served, rules, ranking

    def open(self, function_context: FunctionContext) -> None:
        if worker_mode() != self.mode:
            raise RuntimeError(
                f"expected Python in {self.mode} mode; Flink chose {worker_mode()} mode, "
                "which happens when one function of the job cannot run in the mode asked for"
            )
        self.serving = Serving(self.served, self.ranking)
        self.answering = Answering(self.serving.at, self.rules)
        metrics = metric_group(function_context)
        self.counters = {name: metrics.counter(name) for name in Tally.__slots__}
        followed = COUNTS if self.served.registry else ()
        self.swaps = {name: metrics.counter(name) for name in followed}
        self.told = dict.fromkeys(COUNTS, 0)
        if self.mode == "thread":
            # Decoding shares this interpreter: let it in between two steps of a batch.
            sys.setswitchinterval(0.0005)
        # A full collection over all that was just imported takes 60-100 ms: keep it out of them.
        gc.collect()
        gc.freeze()
        self.serving.start()

    def close(self) -> None:
        self.serving.close()

    def answer(self, users: Sequence[str], windows: Sequence[str]) -> list[Answer | None]:
        answers, tally = self.answering.answer(users, windows)
        for name, counter in self.counters.items():
            counter.inc(getattr(tally, name))
        for name, counter in self.swaps.items():  # counted elsewhere: metrics are of this thread
            total = self.serving.counts[name]
            counter.inc(total - self.told[name])
            self.told[name] = total
        return answers


class RecommendJoined(_Recommend, TableFunction):
    def eval(self, users: str, windows: str) -> Iterator[tuple[str, str, str, str]]:
        names: list[str] = json.loads(f"[{users}]")
        answers = self.answer(names, windows.split("\x1e"))
        for user_id, answer in zip(names, answers, strict=True):
            if answer is not None:
                yield user_id, answer.recommendation_id, answer.event_time, answer.value


class RecommendBatch(_Recommend, ScalarFunction):
    def eval(self, users: pd.Series, windows: pd.Series) -> pd.DataFrame:
        answers = self.answer(users.tolist(), windows.tolist())
        rows = [
            (None, None, None) if a is None else (a.recommendation_id, a.event_time, a.value)
            for a in answers
        ]
        return pd.DataFrame(rows, columns=list(_ANSWERED), dtype=object)


class CloseSessions(TableFunction):
    """Row by row in both modes: there is one call a closed window, not one an event."""

    def __init__(self, rule: Closing) -> None:
        self.rule = rule

    def open(self, function_context: FunctionContext) -> None:
        self.sessions = metric_group(function_context).counter("sessions")

    def eval(self, user_id: str, events: str, end: str) -> Iterator[tuple[str, str, str]]:
        by_end, by_silence = self.rule.by_end, self.rule.by_silence
        found = by_end(user_id, events, end) if end else by_silence(user_id, events)
        for closed in found:
            self.sessions.inc()
            yield closed.session_id, closed.event_time, closed.value


def worker_mode() -> Mode:
    """The mode this interpreter really runs in: embedded in a JVM, or a process of its own."""
    return "thread" if "_pemja" in sys.modules or "pemja" in sys.modules else "process"


def metric_group(context: FunctionContext) -> Any:
    """Where this function's counters are registered.

    In thread mode PyFlink 2.3 gives table functions a Beam metric group that nobody reports, so
    its counters are never seen; the metric group of the Java task that runs this thread is real.
    """
    if worker_mode() == "process":
        return context.get_metric_group()
    from pyflink.fn_execution.metrics.embedded.metric_impl import MetricGroupImpl

    return MetricGroupImpl(_java_task().getMetricGroup())


def _java_task() -> Any:
    """The org.apache.flink.runtime.taskmanager.Task that this thread runs.

    PEMJA finds no classes of the JDK by itself, commons-lang3 (inside flink-dist) does.
    """
    from pemja import findClass

    read = findClass("org.apache.commons.lang3.reflect.FieldUtils").readField
    thread_class = findClass("org.apache.commons.lang3.ClassUtils").getClass("java.lang.Thread")
    # Never leave out varargs in PEMJA: it passes garbage for them and the JVM crashes.
    (method,) = (m for m in thread_class.getMethods() if m.getName() == "currentThread")
    thread = method.invoke(None, ())
    try:
        return read(thread, "target", True)  # Java 17
    except RuntimeError:
        return read(read(thread, "holder", True), "task", True)  # Java 21
