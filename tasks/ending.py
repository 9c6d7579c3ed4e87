"""How a run ends early: in two lines and a few seconds, with nothing left running.

Whatever is killed loses only what was in flight, so nothing here waits for work to finish.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from dpo_pipeline.store.processes import die_with_parent

if TYPE_CHECKING:
    from types import FrameType

    from prefect.server.api.server import SubprocessASGIServer

GRACE = 3.0  # seconds in which the flow may tell Prefect that it crashed
SIGNALS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}


def end_on_signals() -> None:
    """Have Ctrl-C and SIGTERM end this process, even where its main thread is held up.

    The exit status is 128 and the signal's number. Call it in the main thread.
    """
    told, teller = socket.socketpair()
    teller.setblocking(False)
    signal.set_wakeup_fd(teller.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_watch, args=(told, teller), daemon=True).start()


def _stop(number: int, _frame: "FrameType | None") -> NoReturn:
    sys.exit(128 + number)


def _watch(told: socket.socket, _teller: socket.socket) -> None:
    while (number := told.recv(1)[0]) not in SIGNALS:
        pass
    end = threading.Timer(GRACE, os._exit, [128 + number])
    end.daemon = True
    end.start()
    lines = f"\n{SIGNALS[signal.Signals(number)]}; nothing is left running.\n"
    lines += "What was finished is kept: run the same command again to go on.\n"
    with suppress(OSError):
        os.write(2, lines.encode())
    # The rest would be tracebacks of whatever was at work.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    told.recv(1)
    os._exit(128 + number)  # asked twice


def start_mortal_server() -> None:
    """Start the temporary server of Prefect, if a run needs one, so that it ends with the run.

    Call it in the main thread: the kernel kills the server when the thread that started it ends.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    if PREFECT_API_URL.value() is None and PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        server = _mortal(SubprocessASGIServer)()
        SubprocessASGIServer._instances[None] = server
        server.start()


def _mortal(kind: "type[SubprocessASGIServer]") -> "type[SubprocessASGIServer]":
    class MortalServer(kind):  # type: ignore[valid-type,misc]
        _instances: dict[int | None, Any] = {}

        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            from prefect.settings import get_current_settings

            command = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
            command += ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error"]
            flags = ("PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL")
            return subprocess.Popen(
                [sys.executable, *command, "--lifespan", "on"],
                env={
                    **os.environ,
                    **get_current_settings().to_environment_variables(exclude_unset=True),
                    **dict.fromkeys(flags, "1"),
                    "PREFECT_UI_ENABLED": "0",
                },
                preexec_fn=partial(die_with_parent, os.getpid()),
                start_new_session=True,  # Ctrl-C is for the run, which still has to tell it
            )

    return MortalServer
