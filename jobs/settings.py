"""One typed settings class a job, one loader for all of them.

flink-conf/<job>.yaml (or --config FILE)  <  STREAMREC_… (environment)  <  --set key=value
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from operators.connection import SECRET

CONF = Path(__file__).resolve().parent.parent / "flink-conf"
PREFIX = "STREAMREC_"


class SettingsError(ValueError):
    """Settings that a job must not start with; the text names every wrong key."""


class Settings(BaseModel):
    """Base of every job's settings: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=BaseModel)


def load(
    settings: type[S],
    job: str,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> S:
    """Read the settings of `job`; `overrides` are "key=value" texts with dotted keys.

    Raises `SettingsError` that names each wrong key, what was expected and the known keys.
    """
    tree = _read(file or CONF / f"{job}.yaml", required=file is not None)
    for key, value in sorted(environ.items()):
        if key.startswith(PREFIX):
            _put(tree, key.removeprefix(PREFIX).lower().split("__"), value)
    for override in overrides:
        key, found, value = override.partition("=")
        if not found or not key:
            raise SettingsError(f"--set takes key=value; got {override!r}")
        _put(tree, key.strip().split("."), value)
    try:
        return settings.model_validate(_over_defaults(settings, tree))
    except ValidationError as error:
        known = list(keys(settings))
        lines = [_explained(problem, known) for problem in error.errors()]
        raise SettingsError(
            "\n".join([f"{job} was not started:", *lines, f"  known: {', '.join(known)}"])
        ) from None


def keys(settings: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys that a settings class knows, in order of declaration."""
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def described(
    settings: type[BaseModel], prefix: str = "", group: BaseModel | None = None
) -> Iterator[tuple[str, str, str]]:
    """(key, default, description) of every setting, for `--help` and the documentation.

    `group` holds the defaults of a group of settings that differ from those of its class.
    """
    for name, field in settings.model_fields.items():
        kind = field.annotation
        default = getattr(group, name) if group else field.get_default(call_default_factory=True)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from described(kind, f"{prefix}{name}.", default if default else None)
        else:
            required = group is None and field.is_required()
            shown = "required" if required else _shown(default)
            yield prefix + name, shown, field.description or ""


def _shown(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _read(path: Path, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise SettingsError(f"no settings file at {path}; give --config an existing YAML file")
        return {}
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict | None):
        raise SettingsError(f"{path}: expected key: value lines; got {type(tree).__name__}")
    return tree or {}


def _over_defaults(settings: type[BaseModel], tree: dict[str, Any]) -> dict[str, Any]:
    """Fill what a group of settings leaves out with the job's own defaults, not its class's."""
    filled = dict(tree)
    for name, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel) and isinstance(tree.get(name), dict):
            own = _over_defaults(type(default), tree[name])
            filled[name] = default.model_dump(exclude_unset=True) | own
    return filled


def _put(tree: dict[str, Any], path: list[str], text: str) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{'.'.join(path)} is not a setting: {name} has no parts")
    tree[path[-1]] = _value(text)


def _value(text: str) -> Any:
    """A list, map or null as YAML reads it; else the text, which the field's type converts."""
    if text in ("", "null") or text[0] in "[{":
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text
    return text


def _explained(problem: Any, known: list[str]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, 1)
        return f"  {key} is not a setting" + (f"; did you mean {near[0]}?" if near else "")
    # What stands where a secret belongs may be one, and a group of settings may hold it.
    hidden = problem["type"] in ("missing", SECRET) or isinstance(problem["input"], dict)
    got = "" if hidden else f"; got {problem['input']!r}"
    return f"  {key}: {problem['msg']}{got}"
