"""The two processes together: they end as one, and the exit code says how it went."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 60  # for a process to come or to go on a busy machine

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``python -m scripts.run`` in an empty folder, with the echo engine."""
    started: list[subprocess.Popen[str]] = []

    def run(**environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.run"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "ENGINE": "echo"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        for child in children(process):
            child.kill()
        process.kill()
        process.communicate()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return []


def child(process: subprocess.Popen[str], module: str) -> psutil.Process:
    """Wait for the child that runs a module, and for its first work."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for candidate in children(process):
            if module in candidate.cmdline():
                return candidate
        time.sleep(0.05)
    raise AssertionError(f"no {module}")


def greeting(process: subprocess.Popen[str]) -> None:
    """Read until the bot has said its first words: both processes are at work."""
    assert process.stdout is not None
    assert "neuroPushkin" in process.stdout.readline()


def test_a_piped_story_is_printed_and_all_ends_well(start: Start) -> None:
    process = start()
    printed, _ = process.communicate("/story Мороз и солнце\n", timeout=SECONDS)
    assert "Мороз и солнце Мороз и солнце" in printed
    assert process.returncode == 0


def test_no_process_is_left_behind(start: Start) -> None:
    process = start()
    greeting(process)
    family = [child(process, "bot"), child(process, "ml.worker")]
    process.communicate("/quit\n", timeout=SECONDS)
    assert not [p for p in family if p.is_running()]
    assert process.returncode == 0


def test_a_dead_worker_ends_the_bot_and_the_code_says_so(start: Start) -> None:
    process = start()
    greeting(process)
    bot = child(process, "bot")
    child(process, "ml.worker").send_signal(signal.SIGKILL)
    printed, _ = process.communicate(timeout=SECONDS)
    assert "the worker ended with code -9" in printed
    assert process.returncode != 0
    assert not bot.is_running()


def test_a_worker_without_a_model_ends_all_and_says_why(start: Start) -> None:
    process = start(ENGINE="torch", MODEL="no/such/folder", HF_HUB_OFFLINE="1")
    process.wait(SECONDS)  # its input stays open: it is the worker that ends everything
    assert process.stdout is not None
    printed = process.stdout.read()
    assert "cannot load the model 'no/such/folder'" in printed
    assert "Traceback" not in printed
    assert process.returncode == 1


def test_a_dead_bot_ends_the_worker_and_the_code_says_so(start: Start) -> None:
    process = start()
    greeting(process)
    worker = child(process, "ml.worker")
    child(process, "bot").send_signal(signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert not worker.is_running()


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_both(start: Start, number: signal.Signals, whole_group: bool) -> None:
    process = start()
    greeting(process)
    family = [child(process, "bot"), child(process, "ml.worker")]
    if whole_group:
        os.killpg(process.pid, number)  # what a terminal does at Ctrl-C and when it is closed
    else:
        process.send_signal(number)
    process.communicate(timeout=SECONDS)
    assert not [p for p in family if p.is_running()]
    assert process.returncode == 0
