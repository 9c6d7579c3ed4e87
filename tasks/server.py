"""The temporary Prefect server of a run: it ends with the run, however that ends."""

import os
import subprocess
import sys
from functools import partial

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from dpo_pipeline.store.processes import die_with_parent

COMMAND = (
    *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
    *("--host", "127.0.0.1", "--log-level", "error", "--lifespan", "on"),
)
FLAGS = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class MortalServer(SubprocessASGIServer):
    """Prefect's own, killed by the kernel when the thread that starts it ends.

    Started before the flow, it is the one that Prefect finds when it wants a server.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[bytes]:
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        return subprocess.Popen(
            [*COMMAND, "--port", str(self.port)],
            env={**os.environ, **settings, **FLAGS},
            preexec_fn=partial(die_with_parent, os.getpid()),
            start_new_session=True,  # Ctrl-C is the run's, which still has something to tell it
        )
