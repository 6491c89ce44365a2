"""How long answers will be: a running quantile of those of late, by model and tenant.

The exact quantile of a sliding window, kept sorted by insertion (Knuth, The Art of Computer
Programming 3, 5.2.1): next to the P-square estimate (Jain and Chlamtac 1985) it costs 2 KB a tenant
and forgets at once what has left the window, when a tenant begins to ask for something else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque

# Answers that count, and how many of a tenant's must be known before its own are used.
WINDOW = 256
LEAST_OBSERVED = 8
# Tenants beyond these, least recently seen first, are forgotten.
MAX_TENANTS = 1024


class _Window:
    """The newest values, in order of arrival and of size."""

    __slots__ = ("_arrived", "_sorted")

    def __init__(self) -> None:
        self._arrived: deque[int] = deque()
        self._sorted: list[int] = []

    def __len__(self) -> int:
        return len(self._arrived)

    def add(self, value: int) -> None:
        self._arrived.append(value)
        insort(self._sorted, value)
        if len(self._arrived) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]

    def quantile(self, q: float, above: int = 0) -> int:
        """Of those above a value; the value itself where there are none."""
        first = bisect_right(self._sorted, above)
        num = len(self._sorted) - first
        return self._sorted[first + min(num - 1, int(q * num))] if num else above


class OutputLengths:
    """Predicts a choice's number of output tokens. The median by default: bookings add up many."""

    def __init__(self, quantile: float = 0.5) -> None:
        self._quantile = quantile
        self._models: dict[str, _Window] = {}
        self._tenants: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def ended(self, model: str, tenant: str, num_tokens: int, *, is_complete: bool = True) -> None:
        """An answer had so many tokens; or was cut off there by its deadline, or its client.

        Of the latter only a bound is known: without them long answers would be missing where many
        are cut off. So it counts as the median of the answers that were longer.
        """
        of_model, of_tenant = self._window(model), self._tenant_window(model, tenant)
        if is_complete:
            lengths = num_tokens, num_tokens
        else:
            lengths = of_model.quantile(0.5, num_tokens), of_tenant.quantile(0.5, num_tokens)
        of_model.add(lengths[0])
        of_tenant.add(lengths[1])

    def _window(self, model: str) -> _Window:
        return self._models.setdefault(model, _Window())

    def _tenant_window(self, model: str, tenant: str) -> _Window:
        key = (model, tenant)
        window = self._tenants.get(key)
        if window is None:
            window = self._tenants[key] = _Window()
            if len(self._tenants) > MAX_TENANTS:
                self._tenants.popitem(last=False)
        self._tenants.move_to_end(key)
        return window

    def predict(self, model: str, tenant: str, max_tokens: int) -> int:
        """Tokens to expect, at most `max_tokens`; 0 when nothing is known of the model."""
        window = self._tenants.get((model, tenant))
        if window is None or len(window) < LEAST_OBSERVED:
            window = self._models.get(model)
        if window is None:
            return 0
        return min(max_tokens, window.quantile(self._quantile))
