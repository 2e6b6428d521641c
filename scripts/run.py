"""Run the bot, a worker and what retrains as three processes: python -m scripts.run

All end together: at Ctrl-C or the end of the input, and when bot or worker dies. The exit code is
the bot's, or the worker's if that died first. Without the third, stories are told all the same.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dotenv import dotenv_values

PATIENCE = 15.0  # seconds a process has to end after it was asked to
WORKER_LOG = Path("data/worker.log")  # in the terminal, the worker's words would tear the stories


def main() -> int:
    asked: list[int] = []
    # In a terminal Ctrl-C and a hang-up reach the whole foreground group, the bot too, which then
    # leaves in order. The worker stands in a group of its own and is asked by name.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: asked.append(number))
    terminal = not (os.environ.get("BOT_TOKEN") or dotenv_values(".env").get("BOT_TOKEN"))
    WORKER_LOG.parent.mkdir(exist_ok=True)
    with WORKER_LOG.open("ab") as log:
        said_before = log.tell()
        worker = subprocess.Popen(
            [sys.executable, "-m", "ml.worker"],
            stdin=subprocess.DEVNULL,
            stderr=log if terminal else None,
            start_new_session=True,
        )
        retrainer = subprocess.Popen(
            [sys.executable, "-m", "ml.retrain"],
            stdin=subprocess.DEVNULL,
            stderr=log if terminal else None,
            start_new_session=True,
        )
        bot = subprocess.Popen([sys.executable, "-m", "bot"])
        while not asked and bot.poll() is None and worker.poll() is None:
            time.sleep(0.1)
    retrainer.send_signal(signal.SIGTERM)
    if worker.returncode is not None:
        _end(bot, signal.SIGTERM)
        print(f"run: the worker ended with code {worker.returncode}", file=sys.stderr)
        if terminal:
            print(f"run: its last words, from {WORKER_LOG}:", file=sys.stderr)
            words = WORKER_LOG.read_bytes()[said_before:].decode("utf-8", "replace")
            print("\n".join(words.splitlines()[-5:]), file=sys.stderr)
        _end(retrainer, signal.SIGTERM)
        return worker.returncode or 1
    _end(bot, signal.SIGTERM)
    _end(worker, signal.SIGINT)
    _end(retrainer, signal.SIGTERM)
    if asked and bot.returncode in (-asked[0], -signal.SIGTERM):
        return 0  # the signal met it before it handled signals, or after it had done its work
    return bot.returncode


def _end(process: subprocess.Popen[bytes], ask: signal.Signals) -> None:
    """Ask a process to end, if it has not, and insist when it does not."""
    if process.poll() is not None:
        return
    process.send_signal(ask)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
