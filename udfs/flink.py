"""What Flink's Python workers run: a row and a pandas wrapper over each engine-free function.

A row wrapper runs one value at a time (thread mode), a pandas one a whole Arrow batch (process
mode). Both only hold handles: the rules are in `udfs.events` and `udfs.recommend`.
"""

from __future__ import annotations

import gc
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pyflink.common import Row
from pyflink.table import DataTypes, FunctionContext, ScalarFunction, TableFunction
from pyflink.table.udf import UserDefinedFunction, udf, udtf

from models.recommender import Settings as Ranking
from models.serving import COUNTS, Served, Serving
from udfs import lifeline
from udfs.events import InvalidEventError, decode, to_text
from udfs.feedback import Tally as FeedbackTally
from udfs.feedback import Told, credit, decode_action, decode_list, finish, revise
from udfs.recommend import Answer, Answering, Rules, Tally
from udfs.sessions import Closing

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["thread", "process"]


def _strings(*names: str) -> DataTypes:
    return DataTypes.ROW([DataTypes.FIELD(name, DataTypes.STRING()) for name in names])


_DECODED = ("user_id", "event", "reason")
_ACTION = ("user_id", "recommendation_id", "action", "reason")
_LIST = ("user_id", "recommendation_id", "list", "reason")
_ANSWERED = ("recommendation_id", "event_time", "value")


def decoding(mode: Mode) -> Any:
    """(value BYTES, received BIGINT) → ROW<user_id, event, reason>, all STRING."""
    return _wrapped(mode, DecodeRow, DecodeBatch, _DECODED, _decode_event, _DECODED)


def decoding_actions(mode: Mode) -> Any:
    """(value BYTES, received BIGINT) → ROW<user_id, recommendation_id, action, reason>."""
    return _wrapped(mode, DecodeRow, DecodeBatch, _ACTION, decode_action, _ACTION)


def decoding_lists(mode: Mode) -> Any:
    """(value BYTES, received BIGINT) → ROW<user_id, recommendation_id, list, reason>."""
    return _wrapped(mode, DecodeRow, DecodeBatch, _LIST, decode_list, _LIST)


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


def crediting(horizon_ms: int) -> Any:
    """(lists STRING, action STRING) → rows of (recommendation_id, action), both STRING."""
    return udtf(Credit(horizon_ms), result_types=[DataTypes.STRING()] * 2)


def revising() -> Any:
    """(list STRING, actions STRING, is_open BOOLEAN) → rows of (identity, time, message)."""
    return udtf(Revise(), result_types=[DataTypes.STRING()] * 3)


def finishing() -> Any:
    """(list STRING, actions STRING) → rows of (identity, time, message), all STRING."""
    return udtf(Finish(), result_types=[DataTypes.STRING()] * 3)


def counting(counter: str) -> Any:
    """(text STRING) → one row of the same; how many came through is told by `counter`.

    A table function, for Flink evaluates a scalar one before the filters on its result.
    """
    return udtf(Count(counter), result_types=[DataTypes.STRING()])


def _wrapped(mode: Mode, row: Any, batch: Any, fields: tuple[str, ...], *arguments: Any) -> Any:
    if mode == "thread":
        return udf(row(*arguments), result_type=_strings(*fields))
    return udf(batch(*arguments), result_type=_strings(*fields), func_type="pandas")


def _decode_event(value: bytes | None, received_ms: int) -> tuple[str, str]:
    user_id, event = decode(value, received_ms)
    return user_id, to_text(event)


class _Function(UserDefinedFunction):
    """What all functions have in common: their worker, if it is a process, ends with its owner."""

    def open(self, function_context: FunctionContext) -> None:
        if worker_mode() == "process":
            lifeline.hold()


class _Decode(_Function, ScalarFunction):
    """Decodes by a rule: (value, received_ms) → the fields but the last, or the reason there."""

    def __init__(self, rule: Callable[..., tuple[Any, ...]], fields: tuple[str, ...]) -> None:
        self.rule, self.fields = rule, fields

    def open(self, function_context: FunctionContext) -> None:
        super().open(function_context)
        metrics = metric_group(function_context)
        self.consumed = metrics.counter("consumed")
        self.dead_letters = metrics.counter("dead_letters")

    def decode(self, value: bytes | None, received_ms: int) -> tuple[Any, ...]:
        self.consumed.inc()
        try:
            return *self.rule(value, received_ms), None
        except InvalidEventError as error:
            self.dead_letters.inc()
            return *(None,) * (len(self.fields) - 1), str(error)[:500]


class DecodeRow(_Decode):
    def eval(self, value: bytes | None, received_ms: int) -> Row:
        return Row(*self.decode(value, received_ms))


class DecodeBatch(_Decode):
    def eval(self, values: pd.Series, received_ms: pd.Series) -> pd.DataFrame:
        import pandas as pd  # a second, which whoever submits a job need not wait

        rows = [self.decode(*pair) for pair in zip(values, received_ms, strict=True)]
        return pd.DataFrame(rows, columns=list(self.fields), dtype=object)


class _Recommend(_Function):
    """Holds the bundles of one worker: loads what acts when opened, then follows the registry."""

    def __init__(self, mode: Mode, served: Served, rules: Rules, ranking: Ranking) -> None:
        self.mode, self.served, self.rules, self.ranking = mode, served, rules, ranking

    def open(self, function_context: FunctionContext) -> None:
        super().open(function_context)
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
        settle_memory()
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
        names = [b64decode(user).decode() for user in users.split(",")]
        answers = self.answer(names, windows.split("\x1e"))
        for user_id, answer in zip(names, answers, strict=True):
            if answer is not None:
                yield user_id, answer.recommendation_id, answer.event_time, answer.value


class RecommendBatch(_Recommend, ScalarFunction):
    def eval(self, users: pd.Series, windows: pd.Series) -> pd.DataFrame:
        import pandas as pd

        answers = self.answer(users.tolist(), windows.tolist())
        rows = [
            (None, None, None) if a is None else (a.recommendation_id, a.event_time, a.value)
            for a in answers
        ]
        return pd.DataFrame(rows, columns=list(_ANSWERED), dtype=object)


class CloseSessions(_Function, TableFunction):
    """Row by row in both modes: there is one call a closed window, not one an event."""

    def __init__(self, rule: Closing) -> None:
        self.rule = rule

    def open(self, function_context: FunctionContext) -> None:
        super().open(function_context)
        self.sessions = metric_group(function_context).counter("sessions")

    def eval(self, user_id: str, events: str, end: str) -> Iterator[tuple[str, str, str]]:
        by_end, by_silence = self.rule.by_end, self.rule.by_silence
        found = by_end(user_id, events, end) if end else by_silence(user_id, events)
        for closed in found:
            self.sessions.inc()
            yield closed.session_id, closed.event_time, closed.value


class Credit(_Function, TableFunction):
    """Row by row in both modes: only for actions that do not name their list."""

    def __init__(self, horizon_ms: int) -> None:
        self.horizon_ms = horizon_ms

    def eval(self, lists: str, action: str) -> Iterator[tuple[str, str]]:
        yield from credit(lists, action, self.horizon_ms)


class Revise(_Function, TableFunction):
    def open(self, function_context: FunctionContext) -> None:
        super().open(function_context)
        metrics = metric_group(function_context)
        self.counters = {name: metrics.counter(name) for name in FeedbackTally.__slots__}

    def eval(self, made: str | None, actions: str, is_open: bool) -> Iterator[tuple[str, str, str]]:
        told, tally = revise(made, actions, is_open)
        for name, counter in self.counters.items():
            counter.inc(getattr(tally, name))
        yield from map(_told, told)


class Finish(_Function, TableFunction):
    def open(self, function_context: FunctionContext) -> None:
        super().open(function_context)
        self.finals = metric_group(function_context).counter("finals")

    def eval(self, made: str, actions: str) -> Iterator[tuple[str, str, str]]:
        told = finish(made, actions)
        self.finals.inc(len(told))
        yield from map(_told, told)


class Count(_Function, TableFunction):
    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, function_context: FunctionContext) -> None:
        super().open(function_context)
        self.counter = metric_group(function_context).counter(self.name)

    def eval(self, text: str) -> Iterator[str]:
        self.counter.inc()
        yield text


def _told(told: Told) -> tuple[str, str, str]:
    return told.identity, told.time, told.value


def settle_memory() -> None:
    """Keep all that is alive out of later collections, of which one would take 60 to 100 ms.

    What an earlier call kept and nobody uses any more is freed: PyFlink's operations hold
    themselves in a cycle, and with them a function that was opened in this process before, and
    its bundle.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


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
