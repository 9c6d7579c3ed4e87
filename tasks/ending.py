"""How a run ends early: in two lines and a few seconds.

Whatever is killed loses only what was in flight, so nothing here waits for work to finish. The
children of a run, its training and its temporary Prefect server, are killed by the kernel.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

GRACE = 3.0  # seconds in which the flow may tell Prefect that it crashed
SAID = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}

# Told why, before the process ends: the run writes its summary.
last_words: list[Callable[[str], None]] = []


def end_on_signals() -> None:
    """Have Ctrl-C and SIGTERM end this process, even where its main thread is held up.

    The exit status is 128 and the signal's number. Call it in the main thread.
    """
    told, teller = socket.socketpair()
    teller.setblocking(False)
    signal.set_wakeup_fd(teller.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_watch, args=(told, teller), daemon=True).start()


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _watch(told: socket.socket, _kept_open: socket.socket) -> None:
    while (number := told.recv(1)[0]) not in SAID:
        pass
    said = SAID[signal.Signals(number)]
    end = threading.Timer(GRACE, os._exit, [128 + number])
    end.daemon = True
    end.start()
    lines = f"\n{said}: what was finished is kept.\nRun the same command again to go on.\n"
    # What would come beside them are tracebacks of whatever was at work.
    terminal, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    with suppress(OSError):
        os.write(terminal, lines.encode())
    for tell in last_words:
        with suppress(Exception):
            tell(said)
    told.recv(1)
    os._exit(128 + number)  # asked twice
