"""What the bot reads from the environment and ``.env``."""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from db.settings import Settings

CONSOLE_CHAT = 1  # the terminal's chat and reader; Telegram gives nobody this id


class BotSettings(Settings):
    """The bot's settings; the database's are in ``db.session``."""

    bot_token: str | None = Field(
        None, description="token from @BotFather; empty: the bot talks in this terminal"
    )
    telegram_api_url: str | None = Field(
        None, description="address of a local Bot API server; empty: Telegram's own"
    )
    admin_ids: Annotated[list[int], NoDecode] = Field(
        [], description="Telegram ids of the admins, separated by commas"
    )
    retrain_min_ratings: int = Field(
        40, ge=1, description="likes and as many dislikes without which /retrain refuses"
    )
    console_language: Literal["ru", "en"] = Field(
        "ru", description="language of the terminal chat: ru or en"
    )
    bot_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR"
    )

    @field_validator("telegram_api_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("should begin with http:// or https://")
        return value

    @field_validator("admin_ids", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )
