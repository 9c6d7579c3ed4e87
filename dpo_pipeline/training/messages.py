"""What a training process tells its owner, a line each, in between its log."""

import json
import sys
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from dpo_pipeline.store.records import Record

MARK = "\x1e"  # a line that starts with this is a message, not log text


class StepDone(Record):
    """An optimizer step: its figures, pairs a second, and the seconds that are left."""

    kind: Literal["step"] = "step"
    step: int
    total: int
    loss: float
    margin: float
    accuracy: float
    speed: float
    left: float

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f}, margin {self.margin:.3f}, accuracy {self.accuracy:.2f}, "
            f"{self.speed:.1f} pairs/s, {self.left:.0f} s left"
        )


class HeldOutChecked(Record):
    """What early stopping found after a step, and why it stops training (None: it goes on)."""

    kind: Literal["held-out"] = "held-out"
    step: int
    identity_rate: float
    edit_exactness: float
    kl: float  # nats per token
    outcome: str | None

    def __str__(self) -> str:
        line = (
            f"held-out prompts after step {self.step}: identity rate {self.identity_rate:.0%}, "
            f"edit exactness {self.edit_exactness:.0%}, KL {self.kl:.3f} nats per token"
        )
        return f"{line}; stopped: {self.outcome}" if self.outcome else line


class Failed(Record):
    """An error of this project: its class by name, and the arguments to make it again."""

    kind: Literal["failure"] = "failure"
    type: str
    arguments: list[str | int]


Message = StepDone | HeldOutChecked | Failed
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def send(message: Message) -> None:
    """Tell the owning process."""
    sys.stdout.write(MARK + json.dumps(message.model_dump()) + "\n")
    sys.stdout.flush()


def read_message(line: str) -> Message | None:
    """Read a line of a training process; None: it is log text."""
    return _MESSAGES.validate_python(json.loads(line[1:])) if line.startswith(MARK) else None
