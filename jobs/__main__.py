"""The command line: `python -m jobs` lists the jobs, `python -m jobs NAME` runs one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from jobs.settings import SettingsError, described, load

JOBS = {
    "feedback": ("FeedbackSettings", "what users did with each list, joined by event time"),
    "finetune": ("FinetuneJobSettings", "what came since → a better bundle, judged and promoted"),
    "recommend": ("RecommendSettings", "answer every triggering event with a ranked list"),
    "replay": ("ReplaySettings", "a stretch of history through the recommend job, into files"),
    "sessions": ("SessionsSettings", "closed sessions with their features"),
    "train": ("TrainSettings", "events → encoder, ranker and index, as one bundle"),
}
"""Jobs that are run by their settings alone → settings class, summary."""

ON_CLUSTER = ("feedback", "recommend", "sessions")
"""Those that go on without an end, and so can be left to a cluster."""

TOOLS = {
    "bundles": "the bundles of a registry, and which acts from when",
    "cluster": "the jobs on a Flink cluster: status, stop, resume, rescale",
    "compare": "replay one history with two bundles or settings, and report who wins",
    "dead-letters": "list dead letters, group them by reason, send them back",
    "demo": "real shoppers' events through the recommend job, on an embedded broker",
    "evaluate": "models on held-out sessions, the whole catalogue ranked, beside baselines",
    "loop": "simulated shoppers' feedback becomes a better bundle under the running job",
    "repair": "find and write what a job should have written and has not",
    "simulate": "shoppers with hidden tastes, who click on lists with known probability",
}
"""Tools with options of their own, a click command named like the module; → summary."""


class Jobs(click.Group):
    """Imports a job's module only when that job is asked for: some need torch, some Flink."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*JOBS, *TOOLS])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in JOBS:
            return job_command(name)
        return getattr(_module(name), name.replace("-", "_")) if name in TOOLS else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        summaries = {name: summary for name, (_, summary) in JOBS.items()} | TOOLS
        with formatter.section("Jobs"):
            formatter.write_dl(sorted(summaries.items()))


def _module(name: str) -> Any:
    return importlib.import_module(f"jobs.{name.replace('-', '_')}")


_TARGET = click.Option(
    ["--target"],
    type=click.Choice(["cluster"]),
    help="leave the job to the cluster of ./scripts/cluster, or to that at engine.jobmanager",
)


def job_command(name: str) -> click.Command:
    """The command of a job: its settings are its options, some (its OPTIONS) by their own name."""
    job = _module(name)
    settings_class: Any = getattr(job, JOBS[name][0])
    options: dict[str, str] = getattr(job, "OPTIONS", {})

    def run(
        config: Path | None, overrides: tuple[str, ...], target: str = "", **given: str | None
    ) -> None:
        overrides += tuple(f"{key}={value}" for key, value in given.items() if value is not None)
        try:
            settings = load(settings_class, name, config, overrides)
            sys.exit(_module("cluster").submit(name, settings) if target else job.main(settings))
        except SettingsError as error:
            raise click.ClickException(str(error)) from None

    lines = [f"  {key} = {default}  {text}" for key, default, text in described(settings_class)]
    return click.Command(
        name,
        callback=run,
        help="\b\n" + (job.__doc__ or "").replace("\n\n", "\n\n\b\n"),  # as it is drawn
        epilog="\b\nSettings (key = default):\n" + "\n".join(lines),
        params=[
            click.Option(
                ["--config"],
                type=click.Path(path_type=Path),
                metavar="FILE",
                help=f"YAML settings instead of flink-conf/{name}.yaml",
            ),
            click.Option(
                ["--set", "overrides"],
                multiple=True,
                metavar="KEY=VALUE",
                help="override one setting; may be repeated",
            ),
            *(
                click.Option([f"--{key}"], metavar="VALUE", help=text)
                for key, text in options.items()
            ),
            *([_TARGET] if name in ON_CLUSTER else []),
        ],
    )


@click.group(
    cls=Jobs, subcommand_metavar="NAME [OPTIONS]", context_settings={"max_content_width": 100}
)
def jobs() -> None:
    """streamrec: real-time, session-based recommendation as Flink jobs."""


if __name__ == "__main__":
    jobs(prog_name="python -m jobs")
