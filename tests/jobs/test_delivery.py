"""Every streaming job delivers by the same setting, and refuses what its brokers would refuse."""

from __future__ import annotations

import importlib

import pytest

from jobs.__main__ import JOBS
from jobs.settings import SettingsError, keys, load
from operators.broker import Broker

STREAMING = ("recommend", "sessions", "feedback")


def start(broker: Broker, name: str, *overrides: str) -> None:
    """Start the job on topics of its own."""
    module = importlib.import_module(f"jobs.{name}")
    settings = getattr(module, JOBS[name][0])
    given = [f"kafka.bootstrap={broker.bootstrap}", "kafka.create_topics=true", *overrides]
    given += [f"{key}=delivery-{key}" for key in keys(settings) if key.endswith("_topic")]
    module.main(load(settings, name, overrides=given, environ={}))


@pytest.mark.parametrize("name", STREAMING)
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("transaction_timeout_s=3600", "refuses transactions of 3600 s"),  # it allows 900
        ("engine.checkpoint_interval_s=600", "a checkpoint comes every 600 s"),
    ],
)
def test_transactions_that_cannot_work_are_refused_before_the_start(
    broker: Broker, name: str, override: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=f"{name} was not started") as refusal:
        start(broker, name, "delivery=exactly-once", override)
    assert said in str(refusal.value)
