"""What a chat template may cost: it is code that came with a model, and runs in a sandbox."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jinja2 import TemplateError, TemplateRuntimeError

SECONDS = 10.0
LONGEST = 1 << 24  # characters
# What a template's own code raises where it is wrong; jinja2 lets it through.
_WRONG = (ArithmeticError, TypeError, LookupError, AttributeError, MemoryError, RecursionError)


class _TooSlowError(BaseException):
    """Ends a template that runs too long; no handler of its own takes it."""


@contextmanager
def bounded(seconds: float | None = None) -> Iterator[None]:
    """End a block that renders a template after some seconds, in whatever thread it runs.

    Raises:
        TemplateError: It took too long, or is wrong in itself.
    """
    limit = SECONDS if seconds is None else seconds
    thread, lock, over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def end() -> None:
        with lock:
            if not over:
                throw(thread, ctypes.py_object(_TooSlowError))

    timer = threading.Timer(limit, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _TooSlowError:
        raise TemplateRuntimeError(f"the chat template ran for over {limit:g} s") from None
    except TemplateError:
        raise
    except _WRONG as error:
        wrong = f"the chat template is wrong: {type(error).__name__}: {error}"
        raise TemplateRuntimeError(wrong) from error
    finally:
        timer.cancel()
        with lock:
            over = True
            throw(thread, None)  # one that was thrown and has not arrived
