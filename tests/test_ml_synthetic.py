"""Synthetic stories: every answer paid for once, kept, counted, and never over the budget."""

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from ml.synthetic import (
    Patience,
    StoppedError,
    Writing,
    answer_of,
    connect,
    line_of,
    lost_line,
    pause_or_stop,
    worst_cost,
)
from ml.synthetic_plan import (
    GROUPS,
    PRICES_FILE,
    SYSTEM,
    Order,
    Price,
    Request,
    SyntheticError,
    Theme,
    body,
    estimate,
    load_price,
    load_themes,
    plan,
    worst_tokens,
)
from ml.synthetic_store import LOST, Budget, Line, Store, read_lines, tally
from tests.openai_server import (
    CUT,
    DROP,
    EMPTY,
    FILTERED,
    FINE,
    GARBAGE,
    HANG,
    PAGE,
    PROMPT_TOKENS,
    STORY_TOKENS,
    UNSAID,
    Fault,
    OpenAIServer,
    refuse,
    story_for,
)

THEMES = [
    Theme("strange", "Самовар, который помнил всех гостей"),
    Theme("modern", "Очередь в многофункциональном центре"),
    Theme("film", "Похищение картины с выставки"),
    Theme("funny", "Кот купца Пахомова сватается"),
    Theme("fantasy", "Леший сдаёт лес внаймы"),
    Theme("classic", "Дуэль, отложенная из-за дождя"),
]
ORDERS = plan(THEMES, 1)
REQUEST = Request("writer", Price(1.0, 4.0), max_tokens=200)
ONE = (PROMPT_TOKENS * 1.0 + STORY_TOKENS * 4.0) / 1e6  # the cost of a whole answer
MOST = worst_cost(ORDERS[0], REQUEST)


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


class Run:
    """One run of the writer, with its pauses noted in place of being waited for."""

    def __init__(self, server: OpenAIServer, path: Path, **changes: Any) -> None:
        self.server, self.path, self.changes = server, path, changes
        self.pauses: list[float] = []

    async def _pause(self, seconds: float, stop: asyncio.Event) -> None:
        self.pauses.append(seconds)
        await pause_or_stop(0.0, stop)

    async def __call__(
        self,
        orders: Iterable[Order] = ORDERS,
        *,
        concurrency: int = 1,
        budget: float = 1.0,
        seconds: float = 20.0,
    ) -> Writing:
        client = connect(self.server.key, self.server.url, seconds)
        async with client:
            with Store(self.path) as store:
                writing = Writing(
                    client,
                    REQUEST,
                    store,
                    Budget(budget, store.tally),
                    pause=self._pause,
                    **self.changes,
                )
                await writing.run(list(orders), concurrency)
        return writing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stories.jsonl"


@pytest.fixture
def run(server: OpenAIServer, path: Path) -> Run:
    return Run(server, path)


def lines(path: Path) -> list[Line]:
    return list(read_lines(path))


def a_line(number: int = 1, **changes: Any) -> Line:
    lost = lost_line(Order(THEMES[0], number), REQUEST)
    return replace(lost, text="Жил-был…", finish_reason="stop", good=True, **changes)


# What is asked.


def test_prompts_are_russian_and_ask_for_what_the_corpus_needs() -> None:
    sent = body(ORDERS[0], REQUEST)
    system, user = (message["content"] for message in sent["messages"])
    assert system == SYSTEM
    assert not any("a" <= letter.lower() <= "z" for letter in system + user)
    for words in (ORDERS[0].theme.text, "3000 знаков", "без заглавия", "без сносок"):
        assert words in user
    assert "temperature" not in sent
    assert body(ORDERS[0], replace(REQUEST, temperature=0.7))["temperature"] == 0.7


def test_braces_in_a_theme_are_only_braces() -> None:
    order = Order(Theme("modern", "Письмо {без подписи} и %s"), 1)
    assert "{без подписи} и %s" in body(order, REQUEST)["messages"][1]["content"]


def test_plan_takes_every_theme_once_before_any_twice_and_mixes_the_groups() -> None:
    many = [Theme(group, f"{group} {number}") for group in GROUPS for number in range(50)]
    orders = plan(many, 3)
    assert len({order.id for order in orders}) == len(orders) == 900
    assert [order.number for order in orders] == [1] * 300 + [2] * 300 + [3] * 300
    assert {order.theme.group for order in plan(many, 3, limit=40)} == set(GROUPS)
    assert plan(many, 3, limit=40) == orders[:40]


def test_an_order_keeps_its_id_when_other_themes_come_and_go() -> None:
    assert {order.id for order in plan(THEMES[2:], 2)} < {order.id for order in plan(THEMES, 3)}


def test_worst_case_is_above_any_tokenizer() -> None:
    prompt, completion = worst_tokens(ORDERS[0], REQUEST)
    sent = "".join(message["content"] for message in body(ORDERS[0], REQUEST)["messages"])
    assert prompt > len(sent.encode())
    assert completion == REQUEST.max_tokens


def test_estimate_counts_rounds_of_the_concurrency_and_half_a_batch() -> None:
    whole = estimate(ORDERS, REQUEST, concurrency=4)
    assert (whole.stories, whole.seconds) == (6, 24.0)  # two rounds
    assert whole.completion_tokens == 6 * REQUEST.max_tokens  # which is below the usual story
    half = replace(REQUEST, price=REQUEST.price.in_batch())
    assert estimate(ORDERS, half, 4).cost == pytest.approx(whole.cost / 2)
    assert whole.cost < whole.worst == pytest.approx(sum(worst_cost(o, REQUEST) for o in ORDERS))


# Themes and prices.


def test_themes_are_read_with_their_groups(tmp_path: Path) -> None:
    file = tmp_path / "themes.json"
    file.write_text('{"funny": [" Кот "], "film": ["Поезд", "Мост"]}', "utf-8")
    assert load_themes(file) == [
        Theme("funny", "Кот"),
        Theme("film", "Поезд"),
        Theme("film", "Мост"),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ('{"funny": ["Кот"', "not JSON"),
        ('["Кот"]', "JSON object"),
        ("{}", "no themes"),
        ('{"sad": ["Кот"]}', "no such group: 'sad'"),
        ('{"funny": "Кот"}', "list of themes"),
        ('{"funny": ["Кот", 5]}', "not a theme: 5"),
        ('{"funny": ["Кот", " "]}', "not a theme"),
        ('{"funny": ["Чёрный  кот"], "film": ["черный Кот"]}', "twice"),
    ],
)
def test_bad_themes_are_one_line_that_names_the_file(
    tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "themes.json"
    file.write_text(content, "utf-8")
    with pytest.raises(SyntheticError) as error:
        load_themes(file)
    assert str(error.value).startswith(f"{file}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_or_undecodable_themes_are_named(tmp_path: Path) -> None:
    with pytest.raises(SyntheticError, match=r"themes\.json: No such file"):
        load_themes(tmp_path / "themes.json")
    (tmp_path / "themes.json").write_bytes('{"funny": ["Кот"]}'.encode("cp1251"))
    with pytest.raises(SyntheticError, match=r"themes\.json: not UTF-8"):
        load_themes(tmp_path / "themes.json")


def test_a_price_is_the_models_own_or_an_error(tmp_path: Path) -> None:
    assert load_price(PRICES_FILE, "gpt-4o-mini").of(1_000_000, 0) > 0
    with pytest.raises(SyntheticError, match=r"prices\.json: no price for gpt-99"):
        load_price(PRICES_FILE, "gpt-99")
    file = tmp_path / "prices.json"
    for price in ('{"input": 1}', '{"input": "а", "output": 1}', '{"input": -1, "output": 1}', "3"):
        file.write_text(f'{{"models": {{"m": {price}}}}}', "utf-8")
        with pytest.raises(SyntheticError, match=r"prices\.json: m"):
            load_price(file, "m")


# Answers.


async def test_an_answer_is_kept_with_its_theme_and_what_it_cost(
    server: OpenAIServer, run: Run, path: Path
) -> None:
    await run(ORDERS[:1])
    (line,) = lines(path)
    order = ORDERS[0]
    assert (line.id, line.number) == (order.id, 1)
    assert (line.theme, line.group) == (order.theme.text, order.theme.group)
    assert line.text == story_for(body(order, REQUEST)["messages"][1]["content"])
    assert (line.finish_reason, line.good, line.model) == ("stop", True, "writer-2024")
    assert (line.prompt_tokens, line.completion_tokens) == (PROMPT_TOKENS, STORY_TOKENS)
    assert line.cost == pytest.approx(ONE)
    assert datetime.fromisoformat(line.created).tzinfo == UTC
    assert server.requests[0]["max_completion_tokens"] == REQUEST.max_tokens


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_requests_are_under_way_than_allowed(
    server: OpenAIServer, run: Run, path: Path, concurrency: int
) -> None:
    server.hold_after = 0
    task = asyncio.create_task(run(concurrency=concurrency))
    while server.at_once < concurrency:
        await asyncio.sleep(0.001)
    server.hold_after = None
    await task
    assert server.most_at_once == concurrency
    assert {line.id for line in lines(path)} == {order.id for order in ORDERS}


async def test_a_second_run_pays_for_nothing(server: OpenAIServer, run: Run) -> None:
    await run(ORDERS[:4])
    await run(ORDERS[:4])
    assert server.billed == 4
    await run()
    assert server.billed == 6


@pytest.mark.parametrize(
    ("fault", "reason"), [(CUT, "length"), (EMPTY, "stop"), (FILTERED, "content_filter")]
)
async def test_a_cut_or_empty_answer_is_counted_but_not_taken(
    server: OpenAIServer, run: Run, path: Path, fault: Fault, reason: str
) -> None:
    server.faults.append(fault)
    writing = await run(ORDERS[:1])
    bad, good = lines(path)
    assert (bad.good, good.good) == (False, True)
    assert bad.finish_reason == reason
    assert bad.cost > 0
    count = writing.store.tally
    assert count.spent == pytest.approx(bad.cost + good.cost)
    assert count.prompt_tokens == server.prompt_tokens
    assert count.completion_tokens == server.completion_tokens
    assert (count.bad, count.good) == (1, {ORDERS[0].id})


async def test_a_story_is_given_up_after_three_bad_answers_in_all_runs_together(
    server: OpenAIServer, run: Run, path: Path
) -> None:
    server.faults += [CUT] * 9
    with Store(path) as store:
        store.append(replace(a_line(), id=ORDERS[0].id, good=False, finish_reason="length"))
    await run(ORDERS[:1])
    assert server.billed == 2
    await run(ORDERS[:1])
    assert server.billed == 2


async def test_an_answer_that_does_not_say_its_tokens_counts_as_the_worst(
    server: OpenAIServer, run: Run, path: Path
) -> None:
    server.faults.append(UNSAID)
    await run(ORDERS[:1])
    assert lines(path)[0].cost == pytest.approx(MOST)
    assert lines(path)[0].good


MESSAGE = {"message": {"content": "Жил-был\ud800."}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"choices": []}, ""),
        ({"choices": [{}]}, ""),
        ({"choices": [MESSAGE], "usage": {"completion_tokens": 3}, "model": 5}, "Жил-был?."),
        (
            {"choices": [MESSAGE], "usage": {"completion_tokens": 3, "prompt_tokens": -3}},
            "Жил-был?.",
        ),
    ],
)
def test_a_careless_answer_is_kept_at_the_worst_price(
    path: Path, answer: dict[str, Any], text: str
) -> None:
    line = line_of(ORDERS[0], REQUEST, answer_of(answer))
    assert (line.text, line.cost) == (text, pytest.approx(MOST))
    with Store(path) as store:
        store.append(line)
    assert lines(path) == [line]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"error": "no"},
        {"choices": 5},
        {"choices": ["a"]},
        {"choices": [{"message": {"content": ["a"]}}]},
        {"choices": [MESSAGE], "usage": 7},
    ],
)
def test_an_answer_of_another_shape_is_not_the_apis(answer: dict[str, Any]) -> None:
    with pytest.raises(SyntheticError, match="not as OpenAI's API does"):
        line_of(ORDERS[0], REQUEST, answer_of(answer))


# Trouble.


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
async def test_a_passing_refusal_is_tried_again_with_growing_pauses(
    server: OpenAIServer, run: Run, path: Path, status: int
) -> None:
    server.faults += [refuse(status)] * 4
    await run(ORDERS[:1])
    assert len(lines(path)) == server.billed == 1
    assert len(run.pauses) == 4
    for tried, pause in enumerate(run.pauses):
        assert 0.5 * 2**tried <= pause <= 2**tried


def test_pauses_stop_growing_and_differ() -> None:
    error = openai.APITimeoutError(cast(Any, None))
    pauses = [Patience().pause(30, error) for _ in range(20)]
    assert all(30.0 <= pause <= 60.0 for pause in pauses)
    assert len(set(pauses)) > 10


async def test_retry_after_is_honoured_in_seconds_and_as_a_date(
    server: OpenAIServer, run: Run
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    server.faults += [refuse(429, retry_after="37"), refuse(503, retry_after=date)]
    server.faults += [refuse(429, retry_after="soon")]
    await run(ORDERS[:1])
    seconds, until, nonsense = run.pauses
    assert 37.0 <= seconds <= 37.5
    assert 80.0 <= until <= 90.5
    assert 2.0 <= nonsense <= 4.0  # our own third pause


async def test_a_server_that_asks_for_hours_is_not_waited_for(
    server: OpenAIServer, run: Run
) -> None:
    server.faults.append(refuse(429, "Daily limit.", retry_after="7200"))
    writing = await run(ORDERS[:1])
    assert run.pauses == []
    assert "Daily limit." in writing.refused[0]


@pytest.mark.parametrize("fault", [HANG, DROP])
async def test_an_answer_that_never_comes_is_tried_again_and_counted_as_maybe_paid(
    server: OpenAIServer, run: Run, path: Path, fault: Fault
) -> None:
    server.faults.append(fault)
    writing = await run(ORDERS[:1], seconds=0.5)
    lost, good = lines(path)
    assert (lost.finish_reason, lost.good, lost.text) == (LOST, False, "")
    assert good.good
    count = writing.store.tally
    assert (count.lost, count.lost_cost) == (1, pytest.approx(MOST))
    assert count.spent == pytest.approx(ONE)
    assert count.answers[ORDERS[0].id] == 1, "a lost answer is no bad answer"
    assert server.billed == 2


async def test_a_server_that_is_not_there_costs_nothing(
    server: OpenAIServer, run: Run, path: Path
) -> None:
    server.url = "http://127.0.0.1:9/v1"
    with pytest.raises(SyntheticError, match="no answer from the server"):
        await run()
    assert lines(path) == []
    assert len(run.pauses) == 3 * (Patience().tries - 1)  # three stories, then it is hopeless


async def test_a_story_the_server_always_refuses_does_not_stop_the_others(
    server: OpenAIServer, run: Run, path: Path
) -> None:
    server.faults += [refuse(500, "Oops.")] * Patience().tries + [refuse(400, "Not that.")]
    server.faults += [FINE, refuse(400, "Nor that.")]  # three in all, but not in a row
    writing = await run()
    assert len(lines(path)) == 3
    assert ORDERS[0].theme.text in writing.refused[0]
    assert "500: Oops." in writing.refused[0]
    assert "400: Not that." in writing.refused[1]
    assert server.billed == 3
    await run()
    assert len(lines(path)) == 6


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (refuse(401, "Incorrect API key provided."), "OPENAI_API_KEY is refused: Incorrect"),
        (refuse(403, "Country."), "403: Country."),
        (refuse(404, "No such model."), "404: No such model."),
        (refuse(429, "Pay first.", code="insufficient_quota"), "429: Pay first."),
        (PAGE, "OPENAI_BASE_URL answers, but not as"),
        (GARBAGE, "OPENAI_BASE_URL answers, but not as"),
    ],
)
async def test_an_error_that_concerns_all_ends_the_run_at_once(
    server: OpenAIServer, run: Run, fault: Fault, words: str
) -> None:
    server.faults.append(fault)
    with pytest.raises(SyntheticError) as error:
        await run()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert run.pauses == []


async def test_an_error_that_concerns_all_keeps_what_was_under_way(
    server: OpenAIServer, run: Run, path: Path
) -> None:
    server.delay = 0.05
    server.faults += [FINE, FINE, refuse(401, "Revoked.")]
    with pytest.raises(SyntheticError, match="Revoked"):
        await run(concurrency=3)
    assert len(lines(path)) == server.billed >= 2


# The budget.


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_budget_is_never_exceeded_and_as_good_as_used(
    server: OpenAIServer, run: Run, path: Path, concurrency: int
) -> None:
    server.delay = 0.01
    budget = 2.5 * ONE + MOST  # while 3 are paid there is no room for a fourth's worst case
    writing = await run(budget=budget, concurrency=concurrency)
    assert server.billed == len(lines(path)) == 3
    assert writing.store.tally.at_most <= budget
    assert writing.why is not None
    assert "budget" in writing.why
    await run(budget=budget)
    assert server.billed == 3, "what is on file counts"
    await run(budget=1.0)
    assert server.billed == 6


async def test_requests_under_way_hold_their_worst_case(server: OpenAIServer, run: Run) -> None:
    server.hold_after = 0
    task = asyncio.create_task(run(budget=2.9 * MOST, concurrency=6))
    while server.at_once < 2:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    server.hold_after = None
    await task
    assert server.most_at_once == 2


async def test_a_lost_answer_weighs_on_the_budget(server: OpenAIServer, run: Run) -> None:
    server.faults.append(DROP)
    writing = await run(ORDERS[:1], budget=1.9 * MOST)
    assert server.billed == 1
    assert writing.why is not None


async def test_no_room_for_a_single_request_sends_none(server: OpenAIServer, run: Run) -> None:
    writing = await run(budget=0.9 * MOST)
    assert server.requests == []
    assert writing.why is not None
    assert "budget" in writing.why


# Stopping.


async def test_stopping_starts_nothing_new_and_keeps_what_comes(
    server: OpenAIServer, run: Run, path: Path
) -> None:
    server.hold_after = 0
    stop = asyncio.Event()
    run.changes["stop"] = stop
    task = asyncio.create_task(run(concurrency=2))
    while server.at_once < 2:
        await asyncio.sleep(0.001)
    stop.set()
    server.hold_after = None
    await task
    assert len(lines(path)) == server.billed == 2


async def test_stopping_wakes_who_waits_for_the_next_try() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    with pytest.raises(StoppedError):
        await asyncio.wait_for(pause_or_stop(1000.0, stop), 5.0)


# The file.


def test_a_half_written_last_line_is_cut_and_no_other(path: Path) -> None:
    first, second = a_line(1), a_line(2)  # each says when it was written
    with Store(path) as store:
        store.append(first)
        store.append(second)
    whole = path.read_bytes()
    for cut in (1, 50, len(whole) // 2 - 1):
        path.write_bytes(whole[:-cut])
        assert [line.number for line in read_lines(path)] == [1]
        with Store(path) as store:
            assert len(store.tally.good) == 1
            store.append(second)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("", "line 2 is not JSON"),
        ("[]", "line 2 is not a story's"),
        ('{"text": "Жил-был"}', "line 2 is not a story's"),
        (json.dumps({**asdict(a_line()), "cost": "5"}), "line 2: what cost is '5'"),
    ],
)
def test_a_broken_line_in_the_middle_is_named_and_left_alone(
    path: Path, broken: str, words: str
) -> None:
    row = json.dumps(asdict(a_line()))
    path.write_text(f"{row}\n{broken}\n{row}\n", "utf-8")
    before = path.read_bytes()
    with pytest.raises(SyntheticError) as error:
        Store(path)
    assert str(error.value).startswith(f"{path}: {words}")
    assert path.read_bytes() == before


def test_a_second_writer_is_turned_away(path: Path) -> None:
    with Store(path), pytest.raises(SyntheticError, match="another run is writing it"):
        Store(path)
    with Store(path):
        pass


def test_a_full_disk_leaves_whole_lines(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store(path) as store:
        store.append(a_line(1))
        whole = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 40, limits[1]))
        try:
            with pytest.raises(SyntheticError, match=r"stories\.jsonl: File too large"):
                store.append(a_line(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == whole
        store.append(a_line(2))
    assert len(lines(path)) == 2


async def test_a_full_disk_ends_the_run_in_one_line(
    server: OpenAIServer, run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml.synthetic_store.os.write", full)
    with pytest.raises(SyntheticError, match=r"stories\.jsonl: No space left on device"):
        await run()
    assert server.billed == 1
    assert lines(path) == []


def test_a_line_is_on_the_disk_when_append_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr("ml.synthetic_store.os.fsync", lambda _: synced.append(path.read_bytes()))
    with Store(path) as store:
        store.append(a_line())
        assert synced == [path.read_bytes()]
        assert synced[0].endswith(b"\n")


def test_an_unreachable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(SyntheticError, match=r"Not a directory|File exists"):
        Store(tmp_path / "file" / "stories.jsonl")


def test_a_file_that_is_not_there_counts_nothing(path: Path) -> None:
    assert tally(path).at_most == 0.0
    assert not os.path.lexists(path)
