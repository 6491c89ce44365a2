"""Timing model, trace reader, report: formulas against values worked out by hand."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from baton.sim.report import Served, percentile, report
from baton.sim.timing import MOCKER
from baton.sim.workload import TraceRequest, block_hash, lru_reuse, read_trace


def test_mocker_times() -> None:
    assert MOCKER.prefill_s(0) == 0
    # 28.3 + 124.4 + 16.5 ms.
    assert MOCKER.prefill_s(8192) == pytest.approx(0.16914, abs=1e-5)
    assert MOCKER.decode_s(0.0) == pytest.approx(5.74e-3)
    assert MOCKER.decode_s(0.5) == pytest.approx((-25.74 / 4 + 54.01 / 2 + 5.74) * 1e-3)


def request(
    number: int, ids: tuple[int, ...], *, at: float = 0.0, output: int = 11
) -> TraceRequest:
    return TraceRequest(number, 0.0, 512 * len(ids), output, ids)


def served(ttft_s: float, tpot_s: float, *, cached: int = 0, prefill: int = 0) -> Served:
    one = Served(request(0, (1, 2)), prefill=prefill, cached_tokens=cached)
    one.first_token_at = ttft_s
    one.last_token_at = ttft_s + 10 * tpot_s
    return one


def test_report() -> None:
    result = report(
        [served(1.0, 0.01, cached=512), served(3.0, 0.01), served(2.0, 0.03, prefill=1)]
    )
    assert (result.num_requests, result.num_good) == (3, 1)
    assert result.block_reuse == pytest.approx(1 / 6)
    assert (result.ttft_mean_s, result.ttft_p50_s, result.ttft_p99_s) == (2.0, 2.0, 3.0)
    assert result.tpot_p99_s == pytest.approx(0.03)
    assert result.requests_per_worker == {0: 2, 1: 1}
    assert result.imbalance == pytest.approx(2 / 1.5)


def test_report_wants_everything_served() -> None:
    unserved = served(1.0, 0.01)
    unserved.last_token_at = math.nan
    with pytest.raises(ValueError, match="not all"):
        report([unserved])


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(v) for v in range(1, 101)]
    assert [percentile(values, p) for p in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]


def test_single_token_has_no_time_per_token() -> None:
    one = Served(request(0, (1,), output=1))
    one.first_token_at = one.last_token_at = 1.0
    assert one.tpot_s == 0


def test_lru_reuse() -> None:
    trace = [request(0, (1, 2)), request(1, (3,)), request(2, (1, 2, 4))]
    assert lru_reuse(trace, 100) == pytest.approx(2 / 6)
    # Of (1, 2), the end went first when 3 came.
    assert lru_reuse(trace, 2) == pytest.approx(1 / 6)


RECORD = {"timestamp": 1500, "input_length": 1000, "output_length": 3, "hash_ids": [7, 8]}


def test_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl.gz"
    earlier = RECORD | {"timestamp": 0}
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, (RECORD, earlier))).encode()))
    assert [(r.number, r.at) for r in read_trace(path)] == [(1, 0.0), (0, 1.5)]
    (hashed,) = read_trace(path)[0].hashes
    assert hashed == block_hash(7) and len(hashed) == 16


@pytest.mark.parametrize(
    "line",
    ["{", "[]", json.dumps(RECORD | {"hash_ids": [7]}), json.dumps(RECORD | {"output_length": 0})],
)
def test_a_line_that_is_no_request_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(RECORD) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"trace\.jsonl, line 2"):
        read_trace(path)
