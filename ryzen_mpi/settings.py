"""Where the settings come from: a profile or a file, the environment, the command line, in this order.

Everything a person can get wrong here becomes one `UserError` that names the key, the value, what is allowed and the
nearest valid name.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from expandvars import ExpandvarsException, expand
from pydantic import BaseModel, ValidationError

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.processor import quickest_dtype

PROFILES = Path(__file__).parent / "profiles"
DEFAULT_PROFILE = "default"

# what PyYAML raises: beside its own, whatever its constructors trip over (`!!int ""`, `!!bool x`, impossible dates)
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_ONE_REFERENCE = re.compile(r"\$(\w+|\{.*\})", re.DOTALL)


def profile_names() -> list[str]:
    """Names that `--config` accepts beside paths."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_settings(
    config: str = DEFAULT_PROFILE, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings of profile or file `config` with `section.key=value` overrides.

    Local; every rank that reads the same file gets the same answer. Raises UserError.
    """
    path = _config_path(config)
    try:  # a copy of the environment, because ${NAME:=default} writes to it
        tree = _interpolate(_read_yaml(path), dict(os.environ if environment is None else environment), str(path))
    except RecursionError:
        raise UserError(f"{path} is nested too deeply, or within itself") from None
    for override in overrides:
        _apply(tree, override)
    return build_settings(tree, source=path.name)


def build_settings(tree: Mapping[str, Any], source: str) -> Settings:
    """`tree` checked against the models; `source` is named in the error. Raises UserError."""
    try:
        settings = Settings.model_validate({key: {} if part is None else part for key, part in tree.items()})
    except ValidationError as error:
        raise _readable(error, source) from None
    if settings.hardware.dtype != "auto":
        return settings
    hardware = settings.hardware.model_copy(update={"dtype": quickest_dtype()})
    return settings.model_copy(update={"hardware": hardware})


def dump_settings(settings: Settings) -> str:
    """The resolved settings as YAML that `load_settings` reads back to the same value."""
    return yaml.safe_dump(_escape(settings.model_dump(mode="json")), sort_keys=False)


def _config_path(config: str) -> Path:
    if config in profile_names():
        return PROFILES / f"{config}.yaml"
    path = Path(config)
    try:
        path = path.expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # a name too long, a user who is not known
        raise UserError(f"--config {_short(config)}: {getattr(error, 'strerror', None) or error}") from None
    near = difflib.get_close_matches(config, profile_names(), n=1)
    suggestion = f"did you mean {near[0]}? " if near else ""
    what = "is a folder, not a file" if path.is_dir() else "is neither a profile nor a file"
    raise UserError(f"--config {config} {what}", f"{suggestion}profiles: {', '.join(profile_names())}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except _YAML_ERRORS as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}, not sections", _sections_hint())
    return tree


def _interpolate(value: Any, environment: Mapping[str, str], where: str) -> Any:
    """`${NAME:-default}` in every string; a string made of one reference takes the type YAML gives its value."""
    if isinstance(value, dict):
        return {key: _interpolate(item, environment, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, environment, where) for item in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    try:
        text = expand(value, nounset=True, environ=environment)
    except (ExpandvarsException, RecursionError) as error:
        raise UserError(f"{where}: {value!r}: {error}", "write ${NAME:-default} to give a default") from None
    return _scalar(text) if _ONE_REFERENCE.fullmatch(value) else text


def _escape(value: Any) -> Any:
    """The inverse of `_interpolate`: text with a `$` of its own is written so that it is read back as it is."""
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    return value.replace("\\", "\\\\").replace("$", "\\$")


def _scalar(text: str) -> Any:
    """`text` as YAML reads a scalar or a flow list; text that is no YAML stays text."""
    try:
        value = yaml.safe_load(text)
    except _YAML_ERRORS:
        return text
    if isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3 as text because it has no dot
            return float(value)
        except ValueError:
            return value
    return value if isinstance(value, (int, float, bool, list)) or value is None else text


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not sections or not name or not all(sections):
        raise UserError(f"override {override!r} is not of the form section.key=value", _sections_hint())
    branch = tree
    for depth, section in enumerate(sections, 1):
        below = branch.get(section)
        if below is None:
            below = branch[section] = {}
        if not isinstance(below, dict):
            raise UserError(f"{'.'.join(sections[:depth])} holds {below!r}, not settings", _sections_hint())
        branch = below
    branch[name] = _scalar(text.strip())


def _readable(error: ValidationError, source: str) -> UserError:
    """The first refusal of pydantic as a sentence a person can act on; the number of the others is told."""
    first, *others = error.errors(include_url=False)
    location = [str(part) for part in first["loc"]]
    key = ".".join(location) or "settings"
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        names = _names(location[:-1])
        near = difflib.get_close_matches(location[-1], names, n=1)
        message = f"{source}: unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
        hint = f"allowed here: {', '.join(names)}"
    elif first["type"] == "value_error":
        message, hint = (
            f"{source}: {key}: {first['ctx']['error']}" if location else f"{source}: {first['ctx']['error']}",
            None,
        )
    else:
        message = f"{source}: {key}={_short(value)}: {first['msg'].lower()}"
        hint = _field_hint(location)
    if others:
        hint = f"{hint + '; ' if hint else ''}{len(others)} more to correct after this one"
    return UserError(message, hint)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _model_at(location: Sequence[str]) -> type[BaseModel] | None:
    """The model of the section at `location`; None where there is none."""
    model: type[BaseModel] = Settings
    for name in location:
        field = model.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return model


def _names(location: Sequence[str]) -> list[str]:
    model = _model_at(location)
    return list(model.model_fields) if model is not None else []


def _field_hint(location: Sequence[str]) -> str | None:
    """What the model allows at `location`: its choices, or its type and bounds."""
    if len(location) < 2:
        return _sections_hint()
    model = _model_at(location[:-1])
    field = model.model_fields.get(location[-1]) if model is not None else None
    if field is None:
        return None
    schema = model.model_json_schema()["properties"][location[-1]]
    if "$ref" in schema:
        return f"a section of its own: {', '.join(_names(location))}"
    branches = [item for item in schema.get("anyOf", [schema]) if item.get("type") != "null"]
    branch = branches[0] if branches else schema
    if "enum" in branch:
        return f"allowed: {', '.join(map(str, branch['enum']))}"
    bounds = [f"{sign} {branch[word]}" for word, sign in _BOUNDS.items() if word in branch]
    kind = branch.get("type") or getattr(field.annotation, "__name__", str(get_args(field.annotation)))
    return f"allowed: {kind}{' ' if bounds else ''}{' and '.join(bounds)}"


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<", "pattern": "matching"}


def _sections_hint() -> str:
    return f"sections: {', '.join(Settings.model_fields)}"
