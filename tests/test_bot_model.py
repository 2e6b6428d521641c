"""/model over real HTTP: the versions with their votes, activation, the way back, the share."""

from collections.abc import AsyncIterator

import pytest

from bot import keyboards
from bot.admin_texts import RU
from bot.texts import RU as READERS
from db import versions
from db.models import VersionStatus
from db.session import Database
from tests.admin_stand import ADMIN_ID, add_candidate, add_votes, open_admin_stand, statuses
from tests.stand import Stand
from tests.telegram_server import Message, User

ACTIVE, CANDIDATE, RETIRED = VersionStatus.ACTIVE, VersionStatus.CANDIDATE, VersionStatus.RETIRED
BASE, MADE = "pushkin base", "pushkin 1f0c"


@pytest.fixture
async def opened(sqlite: Database) -> AsyncIterator[tuple[Stand, User]]:
    async with open_admin_stand(sqlite) as opened:
        yield opened


@pytest.fixture
def stand(opened: tuple[Stand, User]) -> Stand:
    return opened[0]


@pytest.fixture
def admin(opened: tuple[Stand, User]) -> User:
    return opened[1]


@pytest.fixture
async def base(stand: Stand) -> int:
    """The active version, which readers have voted on."""
    return await add_votes(stand.database, [1] * 8 + [-1] * 2)


@pytest.fixture
async def made(stand: Stand, base: int) -> int:
    """A candidate made from it."""
    bits = {"validation": 1.785}
    return await add_candidate(stand.database, "1f0c", base, bits_per_character=bits)


async def listing(stand: Stand, admin: User) -> Message:
    await stand.server.say(admin, "/model")
    return await stand.answer(RU.versions, ADMIN_ID)


async def tap(stand: Stand, admin: User, message: Message, button: str) -> str:
    """Press a button and wait until the message has been turned; return the toast."""
    edits = message.edits
    said = await stand.toast(await stand.server.tap(admin, message.message_id, button))
    await stand.server.wait_for(lambda: message.edits > edits, what="the message turned over")
    return said


@pytest.mark.usefixtures("made")
async def test_the_list_shows_figures_and_votes(stand: Stand, admin: User) -> None:
    message = await listing(stand, admin)
    made, base = message.text.split("\n\n")[1:3]
    assert made.startswith(f"{MADE}: {RU.candidate}")
    assert "1,785 бит/знак" in made
    assert RU.no_likes in made
    assert base.startswith(f"{BASE}: ● {RU.active}")
    assert "👍 8 👎 2, нравится 80 % (49–94 %)" in base
    assert [b["text"] for b in message.buttons] == [MADE, BASE]


@pytest.mark.usefixtures("made")
async def test_activation_asks_once_more_and_can_be_taken_back_in_one_tap(
    stand: Stand, admin: User
) -> None:
    message = await listing(stand, admin)
    await tap(stand, admin, message, MADE)
    await tap(stand, admin, message, RU.activate)
    assert RU.sure in message.text
    assert (await statuses(stand.database))["1f0c"][0] == CANDIDATE
    await tap(stand, admin, message, RU.no)
    await tap(stand, admin, message, RU.activate)
    assert await tap(stand, admin, message, RU.activate_sure) == RU.activated.format(name=MADE)
    assert await statuses(stand.database) == {"base": (RETIRED, 0.0), "1f0c": (ACTIVE, 0.0)}
    await tap(stand, admin, message, RU.all_versions)
    back = RU.roll_back.format(name=BASE)
    assert message.buttons[0]["text"] == back
    assert await tap(stand, admin, message, back) == RU.activated.format(name=BASE)
    assert await statuses(stand.database) == {"base": (ACTIVE, 0.0), "1f0c": (RETIRED, 0.0)}


async def test_the_way_back_is_the_version_that_answered_until_then(
    stand: Stand, admin: User, base: int, made: int
) -> None:
    """Even if the new one was made from an older one: the list offered that."""
    other = await add_candidate(stand.database, "2a3b", base)
    message = await listing(stand, admin)
    for version_id in (made, other):
        sure = keyboards.Activate(version_id=version_id, sure=True).pack()
        edits = message.edits
        await stand.server.forge(admin, message.message_id, sure)
        await stand.server.wait_for(lambda e=edits: message.edits > e, what="a card")  # type: ignore[misc]
    for text in (MADE, "pushkin 2a3b"):
        back = RU.roll_back.format(name=text)
        assert message.buttons[0]["text"] == back
        await tap(stand, admin, message, RU.all_versions)
        await tap(stand, admin, message, back)


@pytest.mark.usefixtures("made")
async def test_a_candidate_gets_a_share_of_the_stories(stand: Stand, admin: User) -> None:
    message = await listing(stand, admin)
    await tap(stand, admin, message, MADE)
    for percent in (10, 25, 50, 0):
        said = await tap(stand, admin, message, f"{percent} %")
        assert said == RU.shared.format(name=MADE, percent=percent)
        assert (await statuses(stand.database))["1f0c"] == (CANDIDATE, percent / 100)
        assert (RU.share.format(percent=percent) in message.text) == (percent > 0)


async def test_a_version_that_no_worker_can_load_says_so(
    stand: Stand, admin: User, made: int
) -> None:
    async with stand.database.write() as session:
        await versions.activate(session, made)
        await versions.set_trouble(session, made, "no torch here")
    trouble = RU.trouble.format(error="no torch here")
    message = await listing(stand, admin)
    assert message.text.count(trouble) == 1
    await tap(stand, admin, message, MADE)
    assert f"● {RU.appointed}" in message.text
    assert trouble in message.text


async def test_the_share_of_one_candidate_ends_the_trial_of_another(
    stand: Stand, admin: User, made: int
) -> None:
    other = await add_candidate(stand.database, "2a3b")
    message = await listing(stand, admin)
    for version_id in (made, other):
        share = keyboards.Share(version_id=version_id, percent=25).pack()
        await stand.toast(await stand.server.forge(admin, message.message_id, share))
    found = await statuses(stand.database)
    assert (found["1f0c"], found["2a3b"]) == ((CANDIDATE, 0.0), (CANDIDATE, 0.25))


async def test_a_share_for_what_is_no_candidate_any_more_is_refused(
    stand: Stand, admin: User, base: int
) -> None:
    message = await listing(stand, admin)
    share = keyboards.Share(version_id=base, percent=25).pack()
    callback = await stand.server.forge(admin, message.message_id, share)
    assert await stand.toast(callback) == RU.share_refused
    assert await statuses(stand.database) == {"base": (ACTIVE, 0.0)}


async def test_buttons_that_time_has_overtaken_change_nothing(
    stand: Stand, admin: User, base: int
) -> None:
    failed = await add_candidate(
        stand.database, "2a3b", base, figures=[{"name": "sentence_end", "passed": False}]
    )
    message = await listing(stand, admin)
    before = await statuses(stand.database)
    for button in (
        keyboards.Activate(version_id=failed, sure=True),
        keyboards.Share(version_id=failed, percent=10),
        keyboards.RollBack(version_id=failed),
        keyboards.RollBack(version_id=base),
        keyboards.Version(version_id=99),
        keyboards.Activate(version_id=99, sure=True),
        keyboards.Share(version_id=99, percent=10),
    ):
        callback = await stand.server.forge(admin, message.message_id, button.pack())
        assert await stand.toast(callback) == READERS.old_button
    assert await statuses(stand.database) == before


@pytest.mark.usefixtures("base")
async def test_two_taps_at_once_are_one(stand: Stand, admin: User) -> None:
    message = await listing(stand, admin)
    taps = [await stand.server.tap(admin, message.message_id, BASE) for _ in range(2)]
    assert [await stand.toast(callback) for callback in taps] == ["", ""]
    await stand.server.wait_for(lambda: message.edits, what="the card")
