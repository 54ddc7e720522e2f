"""Settings for a command: flags over environment over the YAML file over defaults.

pydantic-settings makes all of it, help texts included, from one typed model per command, so no
option is described twice. What is added here is the file's name (`--config`,
`TOKENSTREAM_CONFIG`) and errors that a person can read.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsError,
    YamlConfigSettingsSource,
)

USAGE_ERROR = 2
_SECTIONS = ("service", "gateway")

S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], *, command: str, section: str, argv: Sequence[str]) -> S:
    """Read the settings of a command; ends the process with a readable line if they are wrong.

    `section`: the YAML file's part for this kind, such as `service`.
    """
    path, rest = config_file(command, argv)

    # Built per call because the sources of a settings class are class-level by design.
    class Configured(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            if path is None:
                return (env_settings,)
            return (env_settings, _section(settings_cls, path, section, command))

    Configured.__doc__ = kind.__doc__
    try:
        return Configured(
            _cli_parse_args=list(rest),
            _cli_prog_name=f"tokenstream {command}",
            _cli_kebab_case=True,
            _cli_implicit_flags=True,
            _cli_hide_none_type=True,
            _cli_avoid_json=True,
            _cli_enforce_required=True,
        )
    except ValidationError as error:
        fail(command, *(_explain(e, kind) for e in error.errors()))
    except SettingsError as error:
        fail(command, str(error))


def config_file(command: str, argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` out of a command's arguments; without it the environment names it."""
    finder = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, prog=f"tokenstream {command}"
    )
    finder.add_argument("--config", default=os.environ.get("TOKENSTREAM_CONFIG"))
    found, rest = finder.parse_known_args(argv)
    return None if found.config is None else _existing_file(found.config, command), rest


def fail(command: str, *lines: str) -> NoReturn:
    """End the process with a usage error."""
    for line in lines:
        print(f"tokenstream {command}: {line}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _existing_file(name: str, command: str) -> Path:
    path = Path(name)
    if not path.is_file():
        fail(command, f"config: there is no file {name}")
    return path


def _section(
    settings_cls: type[BaseSettings], path: Path, section: str, command: str
) -> PydanticBaseSettingsSource:
    try:
        whole = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        fail(command, f"config: {path} is not YAML: {str(error).replace(chr(10), ' ')}")
    known = " and ".join(_SECTIONS)
    if not isinstance(whole, dict):
        fail(command, f"config: {path} has no sections; there are {known}")
    for key, content in whole.items():
        if key not in _SECTIONS:
            fail(command, f"config: {path} has a section {key!r}; there are {known}")
        if not isinstance(content, dict | None):
            fail(command, f"config: {path}: the section {key!r} must be a mapping")
    if not whole.get(section):
        return YamlConfigSettingsSource(settings_cls, yaml_file=None)
    return YamlConfigSettingsSource(settings_cls, yaml_file=path, yaml_config_section=section)


def _explain(error: Any, kind: type[BaseSettings]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, kind.model_fields, n=1)
        return f"{where}: there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    if not where:  # several settings together; the message names them
        return str(message)
    return f"{where}: {message[0].lower()}{message[1:]}"
