"""Order of memory accesses between a process that writes and others that read without locks.

`barrier` is `membarrier(2)`: while the writer calls it, every core that runs one of the processes
that have called `can_share` passes a full barrier. So what was stored before it is seen by every
read that sees something stored after it, and readers need no more than their own program order.
That holds on any architecture. Where the call is refused, x86 is in order by itself (stores as well
as loads), and nothing is shared elsewhere. Aligned words of 4 and 8 bytes are never torn.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable

_SYSCALLS = {"x86_64": 324, "aarch64": 283, "riscv64": 283}
_GLOBAL_EXPEDITED = 2
_REGISTER_GLOBAL_EXPEDITED = 4
_IN_ORDER = ("x86_64",)


def _call(command: int) -> Callable[[], int]:
    number = _SYSCALLS.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return lambda: -1
    # PyDLL: it is over (1 us) sooner than the interpreter's lock is given away and had again.
    syscall = ctypes.PyDLL(None).syscall
    return lambda: int(syscall(number, command, 0, 0))


def can_share() -> bool:
    """Reads of this process can be put in order. To be called by writer and readers."""
    return _call(_REGISTER_GLOBAL_EXPEDITED)() == 0 or platform.machine() in _IN_ORDER


# Between two stores of which no reader may see the second one alone.
barrier: Callable[[], int] = _call(_GLOBAL_EXPEDITED)
