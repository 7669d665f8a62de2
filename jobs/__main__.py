"""The command line: `python -m jobs` lists the jobs, `python -m jobs NAME` runs one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import click

from jobs.settings import SettingsError, described, load

JOBS = {
    "recommend": ("jobs.recommend", "RecommendSettings"),
    "sessions": ("jobs.sessions", "SessionsSettings"),
    "train": ("jobs.train", "TrainSettings"),
}
"""Jobs that are run by their settings alone → module and settings class."""


class Jobs(click.Group):
    """Loads a job's module only when that job is asked for: each has its own heavy imports."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*JOBS, *self.commands])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name) or (job_command(name) if name in JOBS else None)


def job_command(name: str) -> click.Command:
    """The command of a job: its settings are its options."""
    module, class_name = JOBS[name]
    job = importlib.import_module(module)
    settings_class: Any = getattr(job, class_name)

    def run(config: Path | None, overrides: tuple[str, ...]) -> None:
        try:
            settings = load(settings_class, name, config, overrides)
        except SettingsError as error:
            raise click.ClickException(str(error)) from None
        sys.exit(job.main(settings))

    lines = [f"  {key} = {default}  {text}" for key, default, text in described(settings_class)]
    return click.Command(
        name,
        callback=run,
        help="\b\n" + (job.__doc__ or ""),
        short_help=(job.__doc__ or "").split("\n")[0],
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
        ],
    )


@click.group(cls=Jobs, context_settings={"max_content_width": 100})
def jobs() -> None:
    """streamrec: real-time, session-based recommendation as Flink jobs."""


if __name__ == "__main__":
    jobs(prog_name="python -m jobs")
