"""Print the bot's resident memory beside its bound: python -m scripts.measure_memory

Starts ``python -m bot`` in its terminal form on an empty database, lets it answer a few messages
and reads what the system says. The exit code is 1 if the bound is exceeded.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
BOUND = 130  # MB
MESSAGES = "/start\n/help\n/story Мороз и солнце\n/unknown\n"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if k != "BOT_TOKEN"}
        database = f"sqlite+aiosqlite:///{folder}/neuropushkin.db"
        bot = subprocess.Popen(
            [sys.executable, "-m", "bot"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment | {"DATABASE_URL": database, "PYTHONPATH": str(ROOT)},
            cwd=folder,  # no .env there: a token would start the bot on Telegram
        )
        assert bot.stdin is not None
        assert bot.stdout is not None
        bot.stdout.readline()  # it has greeted: everything is imported
        bot.stdin.write(MESSAGES.encode())
        bot.stdin.flush()
        time.sleep(3)
        megabytes = psutil.Process(bot.pid).memory_info().rss / 2**20
        bot.terminate()
        bot.wait()
    print(f"bot: {megabytes:.0f} MB resident (bound {BOUND} MB)")
    return int(megabytes > BOUND)


if __name__ == "__main__":
    sys.exit(main())
