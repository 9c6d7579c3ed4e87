"""What a chat template may cost: it runs in a process of its own, which the kernel limits."""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from jinja2 import TemplateError, TemplateRuntimeError

from dpo_pipeline.models import rendering

SECONDS = 10.0  # of processor time for a text
ROOM = 1 << 30  # bytes of memory
LONGEST = 1 << 24  # characters of a text, beside those of the messages

_lock = threading.Lock()
_running: "list[subprocess.Popen[bytes]]" = []  # one, or none yet


def render_apart(messages: Sequence[Mapping[str, str]], **how: object) -> str:
    """Render a chat template where it can neither hang, nor flood, nor crash this process.

    Args:
        messages: The conversation.
        how: chat_template, and what else transformers' `render_jinja_template` takes.

    Raises:
        TemplateError: It refuses the messages; it takes over SECONDS, ROOM or LONGEST; or it is
            wrong in itself.
    """
    longest = LONGEST + sum(len(message["content"]) for message in messages)
    asked = [longest, {"conversations": [messages], **how}]
    with _lock:
        if not _running:
            _running.append(_start())
        try:
            told = _ask(_running[0], json.dumps(asked).encode() + b"\n")
        except BaseException:  # an answer that nobody read would be taken for the next one
            _end()
            raise
        if not told:
            code = _running.pop().wait()
            slow = code == -signal.SIGPROF
            why = f"ran for over {SECONDS:g} s" if slow else f"ended its process (code {code})"
            raise TemplateRuntimeError(f"the chat template {why}")
    kind, text = json.loads(told)
    if kind == "refused":
        raise TemplateError(text)
    if kind == "wrong":
        raise TemplateRuntimeError(f"the chat template is wrong: {text}")
    return str(text)


def _start() -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", rendering.__file__, str(SECONDS), str(ROOM)]
    pipe = subprocess.PIPE
    # In a session of its own: Ctrl-C is for its parent, with which it ends.
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _ask(child: "subprocess.Popen[bytes]", line: bytes) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(line)
        child.stdin.flush()
    except BrokenPipeError:
        return b""
    return child.stdout.readline()


def _end() -> None:
    while _running:
        with _running.pop() as child:
            child.kill()


def _forget() -> None:
    """Leave the process to the one that this one was forked from."""
    global _lock
    _lock = threading.Lock()
    _running.clear()


atexit.register(_end)
os.register_at_fork(after_in_child=_forget)
