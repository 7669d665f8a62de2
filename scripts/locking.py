"""Make the locks again; see scripts/lock for how to call it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from operators import jars

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "scripts" / "locks"
HEADER = "# Made by ./scripts/lock; do not edit.\n"


@click.group(invoke_without_command=True)
@click.pass_context
def cli(context: click.Context) -> None:
    """Make the locks again, without the addresses of registries in them."""
    if context.invoked_subcommand is None:
        context.invoke(packages)


@cli.command()
@click.option("--upgrade", is_flag=True, help="Take the newest versions that setup.py allows.")
def packages(upgrade: bool = False) -> None:
    """scripts/locks/*.txt from setup.py: dev first, the smaller sets constrained by it."""
    upgrades = ["--upgrade"] if upgrade else []
    project = str(ROOT / "pyproject.toml")
    _compile("uv", [str(LOCKS / "uv.in"), *upgrades])
    # Everything is built with the back end of the uv lock, so the sets must agree with it.
    within = ["-c", str(LOCKS / "uv.txt")]
    _compile("dev", [project, "--extra", "dev", *within, *upgrades])
    for name, extras in (("train", ["--extra", "train"]), ("serve", [])):
        _compile(name, [project, *extras, "-c", str(LOCKS / "dev.txt")])


def _compile(name: str, arguments: list[str]) -> None:
    output = LOCKS / f"{name}.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--python-version", "3.10", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "-o", str(output), *arguments]
    command += ["--excludes", str(LOCKS / "excludes.in")]
    subprocess.run(command, check=True, cwd=ROOT)
    output.write_text(HEADER + output.read_text().removeprefix(HEADER))
    click.echo(f"wrote {output.relative_to(ROOT)}")


@cli.command(name="jars")
def lock_jars() -> None:
    """operators/jars.txt from operators/jars.in, with the SHA-256 of what is served today."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(8) as pool:
        wanted = [line for entry in _entries() for line in _resolve(entry, Path(folder))]
        files = pool.map(lambda line: jars.download(line.split()[1], Path(folder)), wanted)
        hashes = [jars.sha256(path) for path in files]
    lines = [f"{line} sha256:{digest}\n" for line, digest in zip(wanted, hashes, strict=True)]
    jars.LOCK_FILE.write_text(HEADER.replace("lock;", "lock jars;") + "".join(lines))
    click.echo(f"wrote {jars.LOCK_FILE.relative_to(ROOT)}: {len(lines)} jars")


def _entries() -> list[list[str]]:
    lines = jars.LOCK_FILE.with_suffix(".in").read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def _resolve(entry: list[str], folder: Path) -> list[str]:
    group, coordinate, extent = entry
    if extent == "alone":
        return [f"{group} {coordinate}"]
    context = jars.maven(folder)
    inputs, others = context.resolver.resolve([context.create_dependency(coordinate)])
    return [f"{group} {d.groupId}:{d.artifactId}:{d.version}" for d in inputs + others]


if __name__ == "__main__":
    cli()
