"""A deployment that speaks nothing but TLS: with its clients, and between its processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import openai
import pytest

from baton.v1 import inference_pb2, inference_pb2_grpc
from fakes.certificates import Authority, Files
from fakes.deployment import Deployment, deployment, wait_for

pytestmark = pytest.mark.timeout(240)

MOCK = ("--engine", "mock", "--mock-step-ms", "2")
CHAT = {
    "model": "baton-tiny",
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 8,
    "ignore_eos": True,
}


def inner(files: Files) -> dict[str, str]:
    """Mutual TLS between processes, by environment."""
    return {
        "BATON_TLS__CERT_FILE": str(files.cert),
        "BATON_TLS__KEY_FILE": str(files.key),
        "BATON_TLS__CA_FILE": str(files.ca),
    }


class Secured:
    """The deployment, its certificates, and what its clients trust."""

    def __init__(self, running: Deployment, inner: Files, front: Files) -> None:
        self.running = running
        self.inner = inner
        self.front = front

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.front.ca)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.running.url + path, verify=self.trusted(), timeout=10)

    def chat(self) -> httpx.Response:
        return httpx.post(
            f"{self.running.url}/v1/chat/completions",
            json=CHAT,
            verify=self.trusted(),
            timeout=30,
        )

    def num_handoffs(self) -> float:
        found = re.findall(
            r'^baton_handoffs_total\{.*outcome="accepted".*\} (\S+)',
            self.get("/metrics").text,
            re.M,
        )
        return sum(map(float, found))

    def command(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A `baton` command that has nothing but what is given."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BATON_", "SSL_CERT"))}
        return subprocess.run(
            [sys.executable, "-m", "baton.cli.main", *words],
            env={**kept, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("certificates")
    # No pod's address is in the one of the processes, as in a cluster.
    processes = Authority("Processes").issue(folder / "inner", "baton")
    front = Authority("Clients").issue(folder / "front", "127.0.0.1", "llm.example.com")
    environment = {
        **inner(processes),
        "BATON_GATEWAY__TLS_CERT_FILE": str(front.cert),
        "BATON_GATEWAY__TLS_KEY_FILE": str(front.key),
    }
    with pytest.MonkeyPatch.context() as patch, deployment(*MOCK, environment=environment) as it:
        # httpx trusts what this names.
        patch.setenv("SSL_CERT_FILE", str(front.ca))
        it.start_workers(prefill=1, decode=1)
        yield Secured(it, processes, front)


def test_chats_stream_over_https_and_hand_off_over_mutual_tls(secured: Secured) -> None:
    url = secured.running.url
    assert url.startswith("https://")
    before = secured.num_handoffs()
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json={**CHAT, "stream": True},
        verify=secured.trusted(),
        timeout=30,
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.status_code == 200
    assert lines[-1] == "data: [DONE]"
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    streamed = "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces)
    assert streamed
    assert secured.chat().json()["choices"][0]["message"]["content"]
    wait_for("two handoffs", lambda: secured.num_handoffs() == before + 2)
    # Each worker dialled the other, or was dialled.
    for worker in secured.running.workers():
        assert any(link["is_up"] for link in worker["links"])


def test_the_openai_sdk_streams(secured: Secured) -> None:
    with (
        httpx.Client(verify=secured.trusted()) as http,
        openai.OpenAI(
            base_url=f"{secured.running.url}/v1", api_key="none", http_client=http, max_retries=0
        ) as client,
    ):
        stream = client.chat.completions.create(
            model="baton-tiny",
            messages=[{"role": "user", "content": "Hello!"}],
            max_tokens=8,
            stream=True,
        )
        assert list(stream)[-1].choices[0].finish_reason


def test_grpc_calls_come_over_tls_only(secured: Secured) -> None:
    request = inference_pb2.GenerateRequest(model="baton-tiny", text="one")
    request.params.max_tokens = 4
    address = secured.running.grpc
    trusted = grpc.ssl_channel_credentials(secured.front.ca.read_bytes())
    with grpc.secure_channel(address, trusted) as channel:
        assert list(inference_pb2_grpc.InferenceServiceStub(channel).Generate(request, timeout=30))
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        list(inference_pb2_grpc.InferenceServiceStub(channel).Generate(request, timeout=10))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_commands_reach_gateway_and_workers(secured: Secured) -> None:
    running = secured.running
    found = secured.command(
        *("workers", "--url", running.url, "--json"), SSL_CERT_FILE=str(secured.front.ca)
    )
    assert {w["id"] for w in json.loads(found.stdout)} == {"prefill-0", "decode-0"}, found.stderr
    stranger = secured.command("workers", "--url", running.url)
    assert stranger.returncode == 1 and "CERTIFICATE_VERIFY_FAILED" in stranger.stderr
    # On the gateway's own machine its settings are enough.
    own = secured.command(
        "workers",
        BATON_GATEWAY__PORT=running.url.rpartition(":")[2],
        BATON_GATEWAY__TLS_CERT_FILE=str(secured.front.cert),
        BATON_GATEWAY__TLS_KEY_FILE=str(secured.front.key),
    )
    assert own.returncode == 0 and "decode-0" in own.stdout, own.stderr

    store = ("--store", running.store, "--token-file", str(running.token_file))
    for verb in ("drain", "undrain"):
        done = secured.command(verb, "prefill-0", *store, **inner(secured.inner))
        assert done.returncode == 0, done.stderr
    refused = secured.command("drain", "prefill-0", *store)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr


def test_strangers_are_turned_away_and_disturb_nobody(secured: Secured, tmp_path: Path) -> None:
    running = secured.running
    foreign = Authority("another").issue(tmp_path / "foreign", "baton")
    running.start_worker("foreign-0", "any", environment=inner(foreign))
    log = tmp_path / "plain.log"
    command = [
        *(sys.executable, "-m", "baton.cli.main", "worker", "--worker-id", "plain-0", *MOCK),
        *("--store", running.store, "--token-file", str(running.token_file)),
    ]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BATON_")}
    with log.open("wb") as file:
        plain = subprocess.Popen(command, env=kept, stdout=file, stderr=file)
    try:
        logs = (lambda: running.log("foreign-0"), log.read_text)
        wait_for(
            "word that no store answers",
            lambda: all("does not answer" in said() for said in logs),
            timeout_s=60,
        )
        assert not any("Traceback" in said() for said in logs)
        assert {w["id"] for w in running.workers()} == {"prefill-0", "decode-0"}
        assert secured.chat().status_code == 200
        assert "Traceback" not in running.log("gateway")
    finally:
        running.kill("foreign-0")
        plain.kill()
        plain.wait()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"BATON_TLS__CERT_FILE": "x.crt"}, "name also tls.key_file and tls.ca_file"),
        ({"BATON_GATEWAY__TLS_KEY_FILE": "x"}, "gateway.tls_cert_file and gateway.tls_key_file"),
        (
            {"BATON_GATEWAY__TLS_KEY_FILE": "x", "BATON_GATEWAY__TLS_CERT_FILE": "no-such"},
            "gateway.tls_cert_file = no-such: there is no such file",
        ),
    ],
)
def test_settings_of_no_use_end_the_gateway_at_once(
    secured: Secured, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    token = ("--token-file", str(tmp_path / "token"))
    ended = secured.command("gateway", "--port", "0", "--grpc-port", "0", *token, **settings)
    assert ended.returncode == 2
    assert message in ended.stderr and "Traceback" not in ended.stderr


def test_all_certificates_are_replaced_while_requests_run(secured: Secured) -> None:
    """By those of new authorities: clients and processes of before do not come back."""
    running = secured.running
    old = secured.trusted()
    Authority("Processes, later").issue(secured.inner.folder, "baton")
    Authority("Clients, later").issue(secured.front.folder, "127.0.0.1")
    wait_for("the new certificate", lambda: _is_served(secured))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{running.url}/health", verify=old)
    # Links and sessions that were open stay so.
    assert secured.chat().status_code == 200
    # Whoever comes later has the new ones only: to the store, sessions, and links of handoffs.
    running.start_worker("decode-1", "decode")
    running.wait_ready(3)
    running.kill("decode-0")
    wait_for("its loss", lambda: len(running.workers()) == 2)
    before = secured.num_handoffs()
    assert secured.chat().status_code == 200
    wait_for("a handoff to the new worker", lambda: secured.num_handoffs() == before + 1)


def test_the_end_waits_for_no_handshake(secured: Secured) -> None:
    """The last test: it ends the gateway."""
    port = int(secured.running.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port)) as half,
    ):
        half.sendall(b"\x16\x03\x01")
        assert secured.get("/health").status_code == 200
        secured.running.gateway.send_signal(signal.SIGINT)
        assert secured.running.gateway.wait(20) == 0


def _is_served(secured: Secured) -> bool:
    try:
        return secured.get("/health").status_code == 200
    except httpx.ConnectError:
        return False
