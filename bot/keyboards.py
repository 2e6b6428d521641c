"""The buttons under messages and what they carry."""

from typing import Annotated

from aiogram.filters.callback_data import CallbackData
from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup
from pydantic import Field

from bot.texts import CHOSEN, DISLIKE, LIKE, Texts

# A database key; a forged number beyond it is no key of ours.
Key = Annotated[int, Field(ge=1, lt=2**63)]


class Rate(CallbackData, prefix="rate"):
    """A vote on a generation."""

    generation_id: Key
    liked: bool


class Stop(CallbackData, prefix="stop"):
    """The wish to stop a job."""

    job_id: Key


def rating(generation_id: int, chosen: bool | None = None) -> InlineKeyboardMarkup:
    """Return 👍 👎, the reader's choice marked."""
    return InlineKeyboardMarkup(
        inline_keyboard=[
            [
                InlineKeyboardButton(
                    text=f"{sign} {CHOSEN}" if chosen == liked else sign,
                    callback_data=Rate(generation_id=generation_id, liked=liked).pack(),
                )
                for sign, liked in ((LIKE, True), (DISLIKE, False))
            ]
        ]
    )


def stop(job_id: int, texts: Texts) -> InlineKeyboardMarkup:
    """Return the button that stops a job."""
    button = InlineKeyboardButton(
        text=texts.stop, callback_data=Stop(job_id=job_id).pack(), style="danger"
    )
    return InlineKeyboardMarkup(inline_keyboard=[[button]])
