"""Trainers that are killed, or that are two, on one registry."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from models.history import Decision
from models.registry import Registry
from operators.broker import Broker
from tests.faults.scenario import Figures, Ground, scenario
from tests.kafka import PATIENCE_S, ROOT, Record, environment, job, read, send, wait_for

SESSIONS = 400


class Trainer:
    """A finetune job, run again and again, with a folder of its own on a registry."""

    def __init__(self, folder: Path, registry: Registry, broker: Broker, seed: int = 0) -> None:
        from tests.jobs.test_finetune import settings

        self.folder, self.registry, self.broker = folder, registry, broker
        words = [each for each in settings(broker, folder, "latency") if "registry=" not in each]
        words += [f"registry={registry.root.path}", f"round.finetune.seed={seed}"]
        self.command = job("finetune", "kafka.bounded=true", "kafka.start=earliest", *words)
        self.temporary = folder / "tmp"  # of a killed one nobody else clears it
        self.temporary.mkdir(parents=True)

    @property
    def candidates(self) -> list[Path]:
        return [*(self.folder / "finetune" / "candidate").glob("*-*")]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """The job as a process; whatever it has started ends with it."""
        java = f"-Djava.io.tmpdir={self.temporary}"
        with self.screen.open("w") as output:
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=environment(self.folder)
                | {"TMPDIR": str(self.temporary), "JDK_JAVA_OPTIONS": java},
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            kill(process)

    @property
    def screen(self) -> Path:
        """What the last run said."""
        return self.folder / "finetune.out"

    def run(self) -> None:
        """Run to the end, which must be a good one."""
        with self.running() as process:
            code = process.wait(2 * PATIENCE_S)
        assert code == 0, self.screen.read_text()[-4000:]


@scenario()
def trainer_kill(ground: Ground) -> Figures:
    """A trainer is killed at seven moments: no half bundle is ever seen, the next one goes on."""
    with Broker() as broker:
        learnable(broker)
        first = serving(ground.folder / "serving")
        control = Trainer(ground.folder / "control", registry(ground, "alone", first), broker)
        control.run()
        due = control.registry.history().decisions
        assert due[-1].decided == "promoted", due[-1].why
        ours = Trainer(ground.folder / "killed", registry(ground, "registry", first), broker)
        for name, reached in moments(ours).items():
            with ours.running() as process:
                wait_until(process, reached, ours, name)
                kill(process)
            bundles = sound(ours.registry)
            ground.say(f"killed once {name}: {bundles} bundles, all sound")
        ours.run()
        came = ours.registry.history().decisions
        assert list(map(decided, came)) == list(map(decided, due)), f"expected {due}; got {came}"
        told = [
            msgspec.json.decode(each.value or b"", type=Decision)
            for each in read(broker.bootstrap, "n-updates")
        ]
        assert all(made in told for made in (due[-1], came[-1])), "a decision was not announced"
        left = len([*Path(ours.registry.root.path, "bundles").iterdir()])
    return {"kills": len(moments(ours)), "bundles": sound(ours.registry), "folders": left}


def decided(made: Decision) -> Decision:
    """The decision without its place, and without how many microseconds a list took."""
    return msgspec.structs.replace(made, uri=None, why=made.why.partition("latency: ")[0])


@scenario()
def two_trainers(ground: Ground) -> Figures:
    """Two trainers decide at the same time: one wins, the other says so and goes on with it."""
    with Broker() as broker:
        learnable(broker)
        shared = registry(ground, "registry", serving(ground.folder / "serving"))
        both = [Trainer(ground.folder / f"trainer-{n}", shared, broker, seed=n) for n in (1, 2)]
        with both[0].running() as one, both[1].running() as other:
            for process, trainer in ((one, both[0]), (other, both[1])):
                _suspend_with_a_candidate(process, trainer)
            for process in (one, other):
                psutil.Process(process.pid).resume()
            codes = [process.wait(2 * PATIENCE_S) for process in (one, other)]
        said = [trainer.screen.read_text() for trainer in both]
        assert sorted(codes) == [0, 1], f"expected one winner; got exit codes {codes}: {said}"
        loser = codes.index(1)
        assert "was taken by another publisher" in said[loser], said[loser]
        assert len(shared.history().decisions) == 2
        both[loser].run()
        assert sound(shared) >= 2
        return {"decisions": len(shared.history().decisions), "bundles": sound(shared)}


def learnable(broker: Broker) -> None:
    """Topics with sessions that are worth learning."""
    from tests import drift
    from tests.jobs.test_finetune import TOPICS, event

    broker.create_topics(TOPICS)
    log = drift.sessions([drift.DRIFTING], SESSIONS, seed=2, later=True)
    texts = drift.messages(log)
    send(broker.bootstrap, "n-sessions", [Record(text.encode()) for text in texts])
    send(broker.bootstrap, "n-events", [event("e", int(log.times.max()) + 1_000_000, "i1")])


def serving(path: Path) -> Path:
    """A bundle that was fitted before those sessions."""
    from models.fitting import fit, split_by_time
    from tests import drift

    log = drift.sessions([drift.DRIFTING, drift.STEADY], 900, seed=1)
    old = split_by_time(log, None, None, 0.1, 0.2)
    return drift.published(path, *fit(old, drift.SMALL, drift.silent), old)


def registry(ground: Ground, name: str, bundle: Path) -> Registry:
    """A registry in which this bundle acts."""
    made = Registry(ground.folder / name)
    made.promote(made.publish(bundle).bundle_version, 0)
    return made


def moments(trainer: Trainer) -> dict[str, Callable[[], bool]]:
    """Moments of a run, in their order, each with what shows that it has come."""
    folder, root = trainer.folder / "finetune", Path(trainer.registry.root.path)
    return {
        "it has begun": lambda: (folder / "lock").exists(),
        "samples are written": lambda: any((folder / "samples").glob("*")),
        "it learns": lambda: any((folder / "runs").glob("*")),
        "there is a candidate": lambda: any((folder / "candidate").glob("*")),
        "it is being copied": lambda: len([*(root / "bundles").glob("*")]) > 1,
        "it is published": lambda: len([*(root / "published").glob("*")]) > 1,
        "it is decided": lambda: len([*(root / "history").glob("*")]) > 1,
    }


def _suspend_with_a_candidate(process: subprocess.Popen[str], trainer: Trainer) -> None:
    wait_until(process, lambda: bool(trainer.candidates), trainer, "a candidate")
    psutil.Process(process.pid).suspend()


def wait_until(
    process: subprocess.Popen[str], reached: Callable[[], bool], trainer: Trainer, what: str
) -> None:
    """Wait for a moment of a run, which must not end before."""

    def come() -> bool:
        if not reached():
            assert process.poll() is None, f"ended before {what}: {trainer.screen.read_text()}"
            return False
        return True

    wait_for(come, 2 * PATIENCE_S, what, 0.002)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and all that it has started, as a power cut would."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    for each in family:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def sound(registry: Registry) -> int:
    """How many bundles can be seen in the registry; each of them, and each decision, is whole."""
    seen = Registry(registry.root.path)
    found = seen.bundles.all()
    for published in found.values():
        seen.bundles.load(published)
    for decision in seen.history().decisions:
        seen.bundles.load(decision)
    return len(found)
