"""A gateway's first request does not wait for what later ones find done."""

from __future__ import annotations

import subprocess
import sys

FIRST = """
import sys
from baton.gateway import placer
from baton.core.settings import RouterSettings
from baton.router.choice import Choice
from baton.router.policy.base import RequestView
from baton.router.policy.registry import policy_named
from baton.router.pool import Pool
from baton.router.selection import book, select
from baton.v1 import common_pb2, session_pb2
import random

pool, policy = Pool(), policy_named("kv_aware", RouterSettings())
before = set(sys.modules)
for role in (common_pb2.WORKER_ROLE_PREFILL, common_pb2.WORKER_ROLE_DECODE):
    capacity = common_pb2.Capacity(num_blocks=9, block_size=9, max_sequences=9, max_batch_tokens=9)
    worker = common_pb2.WorkerRef(worker_id=str(role))
    row = pool.add(common_pb2.WorkerLease(worker=worker, model="m", role=role, capacity=capacity))
    pool.set_up(row, True)
view = RequestView("m", 5)
selection = select(view, pool, policy, random.Random(1))
choice = Choice(view, pool, policy, selection)
book(view, pool, selection)
load = session_pb2.Load(prefill_tokens_per_s=9, prefill_step_s=9, step_s=9, num_running=9)
pool.report(0, load)
print(sorted(set(sys.modules) - before))
"""


def test_first_choice_imports_nothing() -> None:
    ran = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr
