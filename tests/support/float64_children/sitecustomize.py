"""What Python loads first in training processes of the tests: they compute in float64.

And FSDP on a CPU: torch shards there, over gloo, but accelerate 1.15 hands it several GPUs alone,
not several CPUs.
"""

import atexit
import os

from accelerate import PartialState
from accelerate.utils import DistributedType
from float64 import in_float64

float64 = in_float64()
float64.__enter__()
atexit.register(float64.__exit__, None, None, None)

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    plain = PartialState.__init__

    def start(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = start
