"""The buttons under messages and what they carry."""

from typing import Annotated

from aiogram.filters.callback_data import CallbackData
from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup
from pydantic import Field

from bot.admin_texts import AdminTexts
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


class Consent(CallbackData, prefix="consent"):
    """A reader's answer whether his votes and stories may train the model."""

    reader_id: Key
    agreed: bool


class Train(CallbackData, prefix="train"):
    """An admin's answer whether to start a retraining."""

    yes: bool


class Halt(CallbackData, prefix="halt"):
    """The wish to cancel a retraining."""

    retraining_id: Key


class Versions(CallbackData, prefix="versions"):
    """The wish to see all versions."""


class Version(CallbackData, prefix="version"):
    """The wish to see one version."""

    version_id: Key


class Activate(CallbackData, prefix="activate"):
    """The wish to activate a version; not ``sure``: it will be asked once more."""

    version_id: Key
    sure: bool


class RollBack(CallbackData, prefix="back"):
    """The wish to return to a retired version, at once."""

    version_id: Key


class Share(CallbackData, prefix="share"):
    """The part of the stories that a candidate is to get."""

    version_id: Key
    percent: Annotated[int, Field(ge=0, le=100)]


def rating(generation_id: int, chosen: bool | None = None) -> InlineKeyboardMarkup:
    """Return 👍 👎, the reader's choice marked."""
    return InlineKeyboardMarkup(
        inline_keyboard=[
            [
                button(
                    f"{sign} {CHOSEN}" if chosen == liked else sign,
                    Rate(generation_id=generation_id, liked=liked),
                )
                for sign, liked in ((LIKE, True), (DISLIKE, False))
            ]
        ]
    )


def stop(job_id: int, texts: Texts) -> InlineKeyboardMarkup:
    """Return the button that stops a job."""
    row = [button(texts.stop, Stop(job_id=job_id), style="danger")]
    return InlineKeyboardMarkup(inline_keyboard=[row])


def consent(reader_id: int, texts: Texts, *answers: bool) -> InlineKeyboardMarkup:
    """Return the buttons of a reader's consent, all that are to be offered in a row."""
    return InlineKeyboardMarkup(
        inline_keyboard=[
            [
                button(
                    texts.consent_yes if agreed else texts.consent_no,
                    Consent(reader_id=reader_id, agreed=agreed),
                )
                for agreed in answers
            ]
        ]
    )


def train(texts: AdminTexts) -> InlineKeyboardMarkup:
    """Return: train, not now."""
    row = [button(texts.train, Train(yes=True)), button(texts.not_now, Train(yes=False))]
    return InlineKeyboardMarkup(inline_keyboard=[row])


def halt(retraining_id: int, texts: AdminTexts) -> InlineKeyboardMarkup:
    """Return the button that cancels a retraining."""
    row = [button(texts.cancel, Halt(retraining_id=retraining_id), style="danger")]
    return InlineKeyboardMarkup(inline_keyboard=[row])


def button(text: str, data: CallbackData, style: str | None = None) -> InlineKeyboardButton:
    """Return a button that carries the data."""
    return InlineKeyboardButton(text=text, callback_data=data.pack(), style=style)
