"""What a node is run in: it should leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.heard_signals import heard

_SCRIPT = Path(__file__).with_name("in_namespaces")
# A pod, and a daemon that left its session: in a control group below the node's, and told to stay.
_NODE = """
for hierarchy in /sys/fs/cgroup/ /sys/fs/cgroup/*/; do
  group=$hierarchy$BATON_TEST_CGROUP
  [ -d $group ] && mkdir $group/pod && echo $$ >$group/pod/cgroup.procs
done
trap "" TERM
setsid sleep 1000 &
echo $BATON_TEST_CGROUP
sleep 1000
"""

_TIDY = """
import time
try:
    print("runs", flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    print("tidies up")
"""


def _start(*command: str) -> subprocess.Popen[str]:
    with heard(signal.SIGHUP):
        return subprocess.Popen(
            [_SCRIPT, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_all_that_runs_in_them_and_removes_its_control_groups(number: int) -> None:
    with _start("bash", "-c", _NODE) as running:
        assert running.stdout
        group = running.stdout.readline().strip().removeprefix("/")
        # Not the whole tree, in which others' groups come and go.
        root = Path("/sys/fs/cgroup")
        found = [path for path in (*root.glob(group), *root.glob(f"*/{group}")) if path.is_dir()]
        assert found
        running.send_signal(number)
        assert running.wait(30) == 143
        assert not [path for path in found if path.exists()]
        # Its output ends with the last process that has it.
        assert running.stdout.read() == ""


def test_interrupt_lets_the_command_tidy_up() -> None:
    with subprocess.Popen(
        [_SCRIPT, sys.executable, "-c", _TIDY],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout and running.stdout.readline() == "runs\n"
        os.killpg(running.pid, signal.SIGINT)
        assert running.stdout.read() == "tidies up\n"
        assert running.wait(30) == 0


def test_command_keeps_its_input_and_its_status() -> None:
    with _start("bash", "-c", "cat; exit 7") as running:
        assert running.communicate("hello", timeout=30)[0] == "hello"
    assert running.returncode == 7
