"""Settings from the environment and ``.env``: the base of every room's settings class."""

from typing import Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """A setting has a value that cannot be: the message names each, for the operator."""


class Settings(BaseSettings):
    """One room's settings; several classes share one ``.env``, so each ignores the others'."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    @classmethod
    def load(cls) -> Self:
        """Read the settings. Raises SettingsError."""
        try:
            return cls()
        except ValidationError as error:
            wrong = (f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise SettingsError("; ".join(wrong)) from None
