"""The process a flow runs in: where its files lie, and Prefect with its noise turned down.

Import this before prefect: Prefect reads its environment once, when it is first imported.
"""

import math
import os
import secrets

from dpo_pipeline.plaintext import guard_logs
from tasks.ending import end_on_signals

# What a person or a deployment has set stays as it is.
_ENVIRONMENT = {
    # Without a server Prefect starts one for the run. On a loaded machine that takes longer
    # than its 20 s, and unless it records in batches it loses task runs when it exits.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    # A server may be away for eight minutes (2 + 4 + ... + 256 s).
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    # Telemetry prints tracebacks where there is no network.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # The library's own log lines belong to the run.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "dpo_pipeline",
}
# A script shows its own lines and errors; Prefect keeps its own for the server.
_SCRIPT = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}


def prepare_environment(*, script: bool) -> None:
    """Set what Prefect and its companions read at import, where nobody has set it; guard logs."""
    for name, value in {**_ENVIRONMENT, **(_SCRIPT if script else {})}.items():
        os.environ.setdefault(name, value)
    guard_logs()
    if script:
        end_on_signals()


def lock_temporary_server() -> None:
    """Give the server that Prefect starts for this process alone an auth string of its own.

    Without one, any page open in a browser could read its Secret blocks through loopback. Where a
    server is configured, by the environment or a profile of Prefect, nothing changes.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    auth = f"admin:{secrets.token_urlsafe(32)}"
    os.environ |= {
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "",
    }
    refresh_global_settings_context()


def time_limit(name: str) -> float | None:
    """Return the seconds that a variable of the environment allows; null: it sets no limit."""
    value = os.environ.get(name, "inf")
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not seconds > 0:
        raise SystemExit(f"{name} is {value!r}: give a number of seconds, or leave it out")
    return seconds if math.isfinite(seconds) else None
