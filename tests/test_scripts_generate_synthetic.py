"""The program that buys the stories: what it prints, what a kill costs, how a batch goes on."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ml.synthetic_store import Line, read_lines
from scripts import generate_synthetic
from tests.openai_server import (
    CUT,
    DROP,
    FINE,
    PROMPT_TOKENS,
    STORY_TOKENS,
    Fault,
    OpenAIServer,
    refuse,
)

ROOT = Path(__file__).parents[1]
THEMES = {
    "strange": ["Зеркало, которое отстаёт на день", "Часы без стрелок"],
    "modern": ["Письмо, пришедшее не тому адресату", "Курьер заблудился в метель"],
    "classic": ["Старый егерь и его собака", "Станция, где никто не сходит"],
}
STORIES = 6
ONE = (PROMPT_TOKENS * 0.15 + STORY_TOKENS * 0.6) / 1e6  # US dollars, of a whole answer
QUICK = ("--batch", "--poll", "0.01")


@dataclass
class Desk:
    """An empty folder with themes, and a server to buy from."""

    server: OpenAIServer
    capsys: pytest.CaptureFixture[str]
    out: Path = Path("stories.jsonl")
    ticket: Path = Path("stories.jsonl.batch.json")
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def lines(self) -> list[Line]:
        return list(read_lines(self.out))

    def good(self) -> list[str]:
        return [line.id for line in self.lines() if line.good]

    def arguments(self, *more: str) -> list[str]:
        return ["--themes", "themes.json", "--per-theme", "1", "--out", str(self.out), *more]

    def run(self, *more: str) -> tuple[object, str, str]:
        """Return the code or the last words it ends with, and what it printed and said."""
        code: object = 0
        try:
            generate_synthetic.main(self.arguments(*more))
        except SystemExit as end:
            code = end.code
        return code, *self.capsys.readouterr()

    def start(self, *more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.generate_synthetic", *self.arguments(*more)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    """A desk whose server lives in a thread of its own."""
    (tmp_path / "themes.json").write_text(json.dumps(THEMES, ensure_ascii=False), "utf-8")
    server, ready, done = OpenAIServer(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with server:
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.delenv("SYNTHETIC_MODEL", raising=False)
    desk = Desk(server, capsys)
    yield desk
    for process in desk.processes:
        process.kill()
        process.communicate()
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something to be true while the process lives."""
    end = time.monotonic() + 60.0
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


# One by one.


def test_a_run_says_what_it_made_and_a_second_one_that_nothing_is_left(desk: Desk) -> None:
    code, printed, _ = desk.run()
    assert code == 0
    assert len(set(desk.good())) == desk.server.billed == STORIES
    tokens = f"{STORIES * PROMPT_TOKENS} + {STORIES * STORY_TOKENS} tokens"
    assert printed.splitlines() == [
        f"stories.jsonl: {STORIES} of {STORIES} stories; {tokens}; ${STORIES * ONE:.4f}"
    ]
    code, again, _ = desk.run()
    assert (code, again) == (0, printed * 2)  # as it was, and as it is
    assert desk.server.billed == STORIES


def test_limit_counts_what_is_on_file(desk: Desk) -> None:
    desk.run("--limit", "4")
    desk.run("--limit", "4")
    assert desk.server.billed == 4
    desk.run("--limit", "5")
    assert desk.server.billed == 5


def test_model_of_the_settings_and_of_the_command(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("prices.json").write_text(
        '{"models": {"a": {"input": 0, "output": 0}, "b": {"input": 1, "output": 1}}}', "utf-8"
    )
    monkeypatch.setenv("SYNTHETIC_MODEL", "a")
    desk.run("--prices", "prices.json", "--limit", "1")
    desk.run("--prices", "prices.json", "--limit", "2", "--model", "b", "--temperature", "0.5")
    assert [body["model"] for body in desk.server.requests] == ["a", "b"]
    assert [line.cost > 0 for line in desk.lines()] == [False, True]
    assert [line.temperature for line in desk.lines()] == [None, 0.5]


def test_dry_run_foretells_and_sends_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    code, printed, _ = desk.run("--dry-run", "--concurrency", "2")
    assert code == 0
    assert desk.server.requests == desk.server.calls == []
    assert not desk.out.exists()
    assert "6 stories to write of 6" in printed
    assert "6,840 tokens" in printed  # 1,140 a story
    assert "about 0:00:36 h at 2 at once" in printed  # 3 rounds of 12 s
    one_by_one = float(printed.split("one by one   about $")[1].split(",")[0])
    batch = float(printed.split("with --batch about $")[1].split(",")[0])
    assert one_by_one > 6840 * 0.6e-6
    assert batch == pytest.approx(one_by_one / 2, abs=1e-4)


def test_dry_run_leaves_out_what_is_on_file(desk: Desk) -> None:
    desk.run("--limit", "4")
    _, printed, _ = desk.run("--dry-run")
    assert "2 stories to write of 6" in printed


def test_the_budget_ends_a_run_with_a_word(desk: Desk) -> None:
    code, printed, said = desk.run("--budget", "0.00150", "--concurrency", "1")
    assert code == 1
    assert said.splitlines()[-1] == (
        "generate_synthetic: the budget of $0.0015 has no room for another request"
    )
    spent = sum(line.cost for line in desk.lines())
    assert 0 < spent <= 0.0015
    assert f"${spent:.4f}" in printed


def test_unanswered_stories_are_named_and_a_second_run_has_them(desk: Desk) -> None:
    desk.server.faults.append(refuse(400, "Not that."))
    code, _, said = desk.run("--concurrency", "1")
    assert code == 1
    assert "400: Not that." in said
    assert "1 stories got no answer; run the same command again" in said
    assert desk.run()[0] == 0
    assert len(set(desk.good())) == STORIES


# Bad input: one line, no traceback.


def refusal(desk: Desk, *more: str) -> str:
    code, _, said = desk.run(*more)
    assert isinstance(code, str), code
    assert said == ""
    assert len(code.splitlines()) == 1
    assert code.startswith("generate_synthetic: ")
    return code


def test_no_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "OPENAI_API_KEY is not set" in refusal(desk)


def test_a_wrong_key_is_refused_but_not_shown(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for more in ((), QUICK):
        said = refusal(desk, *more)
        assert "OPENAI_API_KEY is refused: Incorrect API key" in said
        assert "sk-secret" not in said


@pytest.mark.parametrize(
    ("name", "value"), [("OPENAI_API_KEY", "ключ"), ("OPENAI_BASE_URL", "127.0.0.1:80/v1")]
)
def test_a_setting_that_cannot_be(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"{name}: Value error, should be" in refusal(desk).replace("should begin", "should be")


def test_broken_files_are_named(desk: Desk) -> None:
    desk.out.write_text('{"id": \n{}\n', "utf-8")
    for more in ((), ("--dry-run",), QUICK):
        assert "stories.jsonl: line 1 is not JSON" in refusal(desk, *more)
    assert "themes.txt: No such file" in refusal(desk, "--themes", "themes.txt")
    assert "no price for gpt-99" in refusal(desk, "--model", "gpt-99")
    desk.ticket.write_text("{}", "utf-8")
    assert f"{desk.ticket}: not a batch's ticket" in refusal(desk)
    assert desk.server.requests == []


@pytest.mark.parametrize("option", ["--per-theme", "--limit", "--concurrency", "--budget"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "много"])
def test_a_number_must_be_above_zero(desk: Desk, option: str, value: str) -> None:
    code, _, said = desk.run(option, value)
    assert code == 2
    assert f"argument {option}: invalid number above zero value: '{value}'" in said


# Killed and interrupted.


def test_killed_it_goes_on_and_pays_twice_for_none_but_what_was_under_way(desk: Desk) -> None:
    concurrency = 2
    desk.server.hold_after = 3
    process = desk.start("--concurrency", str(concurrency))
    until(lambda: desk.server.billed == 3 and desk.server.at_once == concurrency, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    desk.server.hold_after = None
    while desk.server.at_once:  # the answers under way are written, and billed, all the same
        time.sleep(0.002)
    assert (len(desk.lines()), desk.server.billed) == (3, 3 + concurrency)
    with desk.out.open("ab") as file:  # as if it had been killed while it wrote
        file.write('{"id": "начало стр'.encode())

    code, _, _ = desk.run()
    assert code == 0
    assert len(desk.good()) == len(set(desk.good())) == STORIES
    # Exactly: every story once, and once more those that the kill caught under way.
    assert desk.server.billed == STORIES + concurrency
    assert sorted(desk.server.billed_prompts.values()) == [1, 1, 1, 1, 2, 2]


def test_interrupted_it_keeps_what_is_under_way_and_starts_no_more(desk: Desk) -> None:
    desk.server.hold_after = 0
    process = desk.start("--concurrency", "2")
    until(lambda: desk.server.at_once == 2, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"  # after the terminal's ^C
    assert process.stderr.readline() == "stopping: the answers under way still come\n"
    desk.server.hold_after = None
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert printed.startswith("stories.jsonl: 2 of 6 stories")
    assert len(desk.good()) == desk.server.billed == 2


# Batches.


def test_a_batch_writes_all_at_half_the_price(desk: Desk) -> None:
    code, printed, _ = desk.run(*QUICK)
    assert code == 0
    assert desk.server.requests == []  # none alone
    assert len(set(desk.good())) == desk.server.billed == STORIES
    assert sum(line.cost for line in desk.lines()) == pytest.approx(STORIES * ONE / 2)
    assert {line.batch for line in desk.lines()} == {"batch_1"}
    assert "batch batch_1 completed: 6 of 6 answered" in printed
    assert not desk.ticket.exists()
    desk.run(*QUICK)
    assert len(desk.server.batches) == 1


def test_a_batch_asks_as_a_single_request_does(desk: Desk) -> None:
    desk.run(*QUICK)
    (rows,) = (content for name, content in desk.server.files.items() if name == "file-1")
    row = json.loads(rows.splitlines()[0])
    assert (row["method"], row["url"]) == ("POST", "/v1/chat/completions")
    desk.out.unlink()
    desk.run("--limit", "1")
    assert row["body"] == desk.server.requests[0]
    assert row["custom_id"] == desk.lines()[0].id


def test_a_batch_is_as_large_as_the_budget(desk: Desk) -> None:
    code, _, said = desk.run(*QUICK, "--budget", "0.002")
    assert code == 1
    assert 0 < desk.server.billed < STORIES
    assert "stories are still to be written" in said
    code, _, said = desk.run(*QUICK, "--budget", "0.0001")
    assert (code, len(desk.server.batches)) == (1, 1)
    assert "the budget of $0.0001 has no room for a batch" in said


def test_killed_while_it_waits_it_fetches_the_batch_that_is_paid(desk: Desk) -> None:
    process = desk.start("--batch", "--poll", "600")
    until(lambda: any(call.startswith("GET") for call in desk.server.calls), process)
    process.kill()
    process.communicate()
    assert desk.ticket.exists()
    assert "a batch is under way" in refusal(desk)  # one by one would pay again
    assert desk.server.billed == 0
    Path("themes.json").write_text('{"film": ["Иная тема"]}', "utf-8")  # the batch knows its own
    desk.run(*QUICK)
    assert len(desk.server.batches) == 1
    assert len(set(desk.good())) == desk.server.billed == STORIES
    assert {line.theme for line in desk.lines()} == {t for group in THEMES.values() for t in group}


def test_a_batch_whose_id_never_reached_us_is_found_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.synthetic.random.uniform", lambda *_: 0.0)  # no pause
    desk.server.other_faults += [FINE, DROP]  # the file goes up; the batch is made, unsaid
    code, _, _ = desk.run(*QUICK)
    assert code == 0
    assert len(desk.server.batches) == 1
    assert desk.server.billed == STORIES


GONE = refuse(404, "No batch found with that id.")


def test_answers_already_on_file_are_not_counted_twice(desk: Desk) -> None:
    desk.server.other_faults += [FINE, FINE, GONE]  # the file goes up, the batch is made
    desk.run(*QUICK)
    ticket = desk.ticket.read_bytes()
    desk.run(*QUICK)
    desk.ticket.write_bytes(ticket)  # as if killed after the last answer, before the ticket went
    assert desk.run(*QUICK)[0] == 0
    assert len(desk.lines()) == STORIES
    assert not desk.ticket.exists()


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_a_batch_did_not_get_to_goes_into_the_next(desk: Desk, end: str) -> None:
    desk.server.batch_end, desk.server.batch_answers = end, 2
    code, printed, said = desk.run(*QUICK)
    assert code == 1
    assert f"batch batch_1 {end}: 2 of 6 answered" in printed
    assert "This request was not executed." in said
    assert "4 stories are still to be written; run the same command again" in said
    desk.server.batch_end, desk.server.batch_answers = "completed", None
    assert desk.run(*QUICK)[0] == 0
    assert len(set(desk.good())) == desk.server.billed == STORIES


def test_a_failed_batch_says_why_and_leaves_nothing_behind(desk: Desk) -> None:
    desk.server.batch_end = "failed"
    code, printed, said = desk.run(*QUICK)
    assert code == 1
    assert "The model does not exist. (request 1)" in said
    assert "failed: 0 of 6 answered" in printed
    assert not desk.ticket.exists()
    assert desk.server.billed == 0


def test_single_failures_and_cut_answers_of_a_batch_are_asked_again(desk: Desk) -> None:
    desk.server.faults += [refuse(500, "Oops."), CUT]
    code, _, said = desk.run(*QUICK)
    assert code == 1
    assert "Oops." in said
    assert "2 stories are still to be written" in said
    assert desk.run(*QUICK)[0] == 0
    assert len(set(desk.good())) == STORIES
    assert desk.server.billed == len(desk.lines()) == STORIES + 1


def test_a_batch_that_is_gone_is_named_with_its_ticket(desk: Desk) -> None:
    desk.server.other_faults += [FINE, FINE, GONE]
    code, _, _ = desk.run(*QUICK)
    assert code == (
        "generate_synthetic: the server answers 404: No batch found with that id.; "
        f"the batch is noted in {desk.ticket}"
    )
    assert desk.ticket.exists()


@pytest.mark.parametrize("trouble", [[refuse(401, "No.")], [FINE, refuse(400, "Pay first.")]])
def test_a_batch_that_was_not_made_leaves_no_ticket(desk: Desk, trouble: list[Fault]) -> None:
    desk.server.other_faults += trouble  # at the upload, and at the batch itself
    said = refusal(desk, *QUICK)
    assert trouble[-1].message in said
    assert not desk.ticket.exists()
    assert desk.run()[0] == 0


def test_a_story_that_is_always_cut_is_given_up(desk: Desk) -> None:
    desk.server.faults += [CUT] * 3
    code, printed, _ = desk.run("--limit", "1")
    assert code == 0
    assert "0 of 1 stories, 3 answers cut or empty, 1 stories given up for that" in printed
    desk.run("--limit", "1")
    assert desk.server.billed == 3


def test_interrupted_while_it_waits_the_batch_goes_on(desk: Desk) -> None:
    process = desk.start("--batch", "--poll", "600")
    until(lambda: any(call.startswith("GET") for call in desk.server.calls), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the batch goes on without us; the same command fetches it" in said
    assert "Traceback" not in said
    assert desk.ticket.exists()
