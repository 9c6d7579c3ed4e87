"""The temporary Prefect server of a run: it ends with the run, however that ends."""

import os
import subprocess
import sys
import tempfile
from functools import partial

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_HOME, get_current_settings

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.processes import die_with_parent

COMMAND = (
    *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
    *("--host", "127.0.0.1", "--log-level", "error", "--lifespan", "on"),
)
TRIES = 3  # of a server that ends while it starts: its port may be taken
ROOM = 1 << 20  # bytes that its database takes at least
FLAGS = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class MortalServer(SubprocessASGIServer):
    """Prefect's own, killed by the kernel when the thread that starts it ends.

    Started before the flow, it is the one that Prefect finds when it wants a server.
    """

    tries = 0

    def start(self, timeout: int | None = None) -> None:
        """Start it, and wait until it answers.

        Raises:
            StoreError: It cannot write its database, or does not start.
        """
        if self.running:
            return
        home = PREFECT_HOME.value()
        try:
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=home) as probe:
                probe.write(bytes(ROOM))
            super().start(timeout)
        except (OSError, RuntimeError) as error:
            raise StoreError(
                f"Prefect's temporary server does not start: {error}; see that there is room in "
                f"{home} and that you may write there, or set PREFECT_HOME to another folder; on a "
                "busy machine set PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS to more"
            ) from error

    def _run_uvicorn_command(self) -> subprocess.Popen[bytes]:
        self.tries += 1
        if self.tries > TRIES:  # Prefect would go on for ever
            raise RuntimeError(f"it ended {TRIES} times while starting")
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        return subprocess.Popen(
            [*COMMAND, "--port", str(self.port)],
            env={**os.environ, **settings, **FLAGS},
            preexec_fn=partial(die_with_parent, os.getpid()),
            start_new_session=True,  # Ctrl-C is the run's, which still has something to tell it
        )
