"""Where the settings come from, and what a wrong one is answered with.

Flags win over `JOBLEDGER_*` environment variables, those over `DIR/jobledger.toml`, those over
the defaults (design.md 10). Only this module reads the environment.
"""

import ipaddress
import tomllib
from pathlib import Path
from typing import Any, get_args

from msgspec import NODEFAULT, Meta
from msgspec.structs import FieldInfo, fields, replace
from pydantic import Field, ValidationError, create_model, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from services.errors import ConfigError
from services.settings import Settings, is_zone

ENV_PREFIX = "JOBLEDGER_"


class _Sources(BaseSettings):
    """The rules that no type tells; the settings themselves are added below."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    @field_validator("timezone", check_fields=False)
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if not is_zone(value):
            raise ValueError(f"'{value}' is not the name of a time zone")
        return value

    @field_validator("trusted_proxies", check_fields=False)
    @classmethod
    def _known_networks(cls, value: list[str]) -> list[str]:
        for entry in value:
            try:
                ipaddress.ip_network(entry)
            except ValueError:
                raise ValueError(f"'{entry}' is neither an address nor a network") from None
        return value

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "_Sources":
        if (vars(self)["tls_cert"] is None) != (vars(self)["tls_key"] is None):
            raise ValueError("tls_cert and tls_key go together: one of them is missing")
        return self

    @field_validator("replicas", check_fields=False)
    @classmethod
    def _odd_number(cls, value: int) -> int:
        if value not in (1, 3, 5):
            raise ValueError("a cluster keeps 1, 3 or 5 copies")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file in the data directory those two name."""
        named = init_settings().get("data_dir") or env_settings().get("data_dir") or "data"
        file = Path(named) / "jobledger.toml"
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)


def _as_pydantic(field: FieldInfo) -> tuple[Any, Any]:
    """A setting's type with its default and its bounds."""
    told: dict[str, Any] = {"default": field.default}
    if field.default is NODEFAULT:
        told = {"default_factory": field.default_factory}
    for bounds in get_args(field.type):
        if isinstance(bounds, Meta):
            told |= {"ge": bounds.ge, "gt": bounds.gt, "le": bounds.le}
            told["min_length"] = bounds.min_length
    return field.type, Field(**told)


_TYPES: dict[str, Any] = {field.name: _as_pydantic(field) for field in fields(Settings)}
_Checked = create_model("_Checked", __base__=_Sources, **_TYPES)


def read_settings(flags: dict[str, Any]) -> Settings:
    """The settings in force. Raises ConfigError, see `settings.load_settings`."""
    try:
        settings = Settings(**dict(_Checked(**flags)))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"jobledger.toml is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"The settings cannot be read: {error}.") from error
    return replace(settings, data_dir=settings.data_dir.absolute())


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"There is no setting '{name}'."
    reason = first["msg"].removeprefix("Value error, ")
    if not name:
        return f"The settings are wrong: {reason}."
    return f"Setting '{name}' is wrong: {reason[0].lower()}{reason[1:]}."
