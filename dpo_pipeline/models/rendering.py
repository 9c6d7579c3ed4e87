"""The process in which chat templates run: they are code that came with a model.

A script that limits.py starts, and that imports nothing of the project. A line on standard input
asks for a text, and one on standard output holds it, or why there is none.
"""

import json
import resource
import signal
import sys


def main(seconds: float, room: int) -> None:
    """Answer until nobody asks any more.

    Args:
        seconds: Of this process's time that a text may take; the kernel ends it after them.
        room: Bytes of memory that this process may have.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        longest, asked = json.loads(line)
        try:
            told = ["text", render_jinja_template(**asked)[0][0]]
            if len(told[1]) > longest:
                told = ["wrong", f"it writes {len(told[1]):,} characters"]
        except TemplateError as error:
            told = ["refused", str(error)]
        except MemoryError:
            told = ["wrong", f"MemoryError: it takes over {room >> 20:,} MiB"]
        except Exception as error:  # of any kind
            told = ["wrong", f"{type(error).__name__}: {error}"]
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
