"""Finding and ending all processes of a session."""

from __future__ import annotations

import os
import subprocess

from baton.cluster.processes import in_session, kill_session


def test_a_session_is_killed_with_its_orphans_and_nobody_else() -> None:
    # The shell leaves an orphan in a process group of its own, as Ray's workers are.
    leader = subprocess.Popen(
        ["bash", "-mc", "(sleep 60 & echo; sleep 60)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        assert leader.pid in in_session(leader.pid)
        assert len(in_session(leader.pid)) >= 2
        assert kill_session(leader.pid) == []
        assert in_session(leader.pid) == []
        assert leader.wait() != 0
    assert os.getpid() in in_session(os.getsid(0))
