"""What the operator costs: duration of its rounds and what each waited for its turn, memory, CPU,
calls to the API server.

    make bench-operator

A real control plane with fake nodes (kwok), whose pods start at once, and services of mock workers,
half prefill and half decode. Three phases: all services are applied at once until each is Ready;
nothing happens; each service's image changes, until every worker has been replaced. Rounds are
taken from the operator's own log; a round waits from when it is due, with others before it in the
queue. The host runs the control plane, too: what is measured here is an upper bound.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes import client
from measure import cpu_seconds, hardware, resident_bytes, save

from baton_operator import names
from cluster.baton_objects import install_crds
from cluster.cluster import Cluster, Manifest
from cluster.control_plane import ControlPlane
from cluster.host_gateway import HostGateway
from cluster.operator_services import service
from cluster.operator_under_test import Operator
from cluster.tools import Tools

GOAL_P99_S, GOAL_BYTES, GOAL_CORES = 1.0, 400e6, 1.0
GPUS = {"nvidia.com/gpu": "8"}
ROUND = re.compile(
    r"baton_operator\.rounds\.controller: round .* seconds=([\d.]+) waited_s=([\d.]+)"
)
_KIND = (names.GROUP, names.VERSION, "modelservices")
# The defaults of the settings, which the tests shorten.
PACE: dict[str, Any] = {
    "lease_duration_s": 15,
    "lease_deadline_s": 10,
    "lease_retry_s": 2,
    "min_interval_s": 0.5,
    "tick_s": 10,
    "backoff_s": 1,
    "max_backoff_s": 120,
    "resync_s": 600,
}


@dataclass(frozen=True)
class Bench:
    """One operator, and the services that it has to keep."""

    cluster: Cluster
    operator: Operator
    services: dict[str, Manifest]
    """By namespace."""
    rounds: list[tuple[float, float]] = field(default_factory=list)
    """Of the phases so far: how long each took, and how long it had waited before, in seconds."""

    @property
    def pid(self) -> int:
        return self.cluster.processes.pid(self.operator.process())

    def apply(self, image: str) -> None:
        # By one client for all: starting kubectl takes as much CPU as what it asks for.
        for namespace, manifest in self.services.items():
            spec = {**manifest["spec"], "image": image}
            self._custom.patch_namespaced_custom_object(
                *_KIND[:2],
                namespace,
                _KIND[2],
                manifest["metadata"]["name"],
                {**manifest, "spec": spec},
                field_manager="bench",
                _content_type="application/apply-patch+yaml",
            )

    def settled(self, image: str) -> bool:
        """All services Ready with all of their workers of this image."""
        listed: Any = self._custom.list_cluster_custom_object(*_KIND)
        found = listed["items"]
        return len(found) == len(self.services) and all(_settled(each, image) for each in found)

    @property
    def _custom(self) -> client.CustomObjectsApi:
        return client.CustomObjectsApi(self.cluster.api)

    def phase(
        self, name: str, image: str | None, until: Callable[[], bool], within_s: float
    ) -> dict[str, Any]:
        """Figures of what happens until then, from the moment at which the image is wanted."""
        log = self.cluster.processes.log(self.operator.process())
        start, cpu, began = log.stat().st_size, cpu_seconds(self.pid), time.monotonic()
        calls, peak = self.calls(), resident_bytes(self.pid)
        if image is not None:
            self.apply(image)
        while not until():
            if time.monotonic() - began > within_s:
                raise SystemExit(f"{name}: not done after {within_s:g} s")
            time.sleep(0.5)
            peak = max(peak, resident_bytes(self.pid))
        took = time.monotonic() - began
        with log.open() as lines:
            lines.seek(start)
            rounds = [(float(m[1]), float(m[2])) for line in lines if (m := ROUND.search(line))]
        self.rounds.extend(rounds)
        figures = {
            "seconds": round(took, 1),
            **round_figures(rounds),
            "cores": round((cpu_seconds(self.pid) - cpu) / took, 3),
            "api_calls": int(self.calls() - calls),
            "peak_bytes": peak,
        }
        print(
            f"{name:10} {took:8.1f} {figures['rounds']:7} {figures['round_p50_s']!s:>8}"
            f" {figures['round_p99_s']!s:>8} {figures['wait_p50_s']!s:>10}"
            f" {figures['wait_p99_s']!s:>10} {figures['cores']:7.3f} {figures['api_calls']:7}"
            f" {peak / 1e6:8.1f}"
        )
        return figures

    def calls(self) -> float:
        lines = self.operator.metrics().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith("baton_operator_api_calls_total{")
        )


def round_figures(rounds: list[tuple[float, float]]) -> dict[str, Any]:
    """How long rounds took and had waited; None for each where there were none."""
    took, waited = sorted(each for each, _ in rounds), sorted(each for _, each in rounds)
    return {
        "rounds": len(rounds),
        **_quantiles("round", took),
        **_quantiles("wait", waited),
    }


def _quantiles(name: str, ordered: list[float]) -> dict[str, float | None]:
    return {
        f"{name}_p50_s": round(statistics.median(ordered), 4) if ordered else None,
        f"{name}_p99_s": ordered[int(len(ordered) * 0.99)] if ordered else None,
        f"{name}_max_s": ordered[-1] if ordered else None,
    }


def _settled(found: Manifest, image: str) -> bool:
    status = found.get("status") or {}
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or ()}
    return (
        status.get("observedGeneration") == found["metadata"]["generation"]
        and found["spec"]["image"] == image
        and conditions.get("Ready") == "True"
        and conditions.get("Progressing") == "False"
        and all(
            pool["ready"] == pool["updated"] == pool["desired"] and not pool["draining"]
            for pool in status["pools"]
        )
    )


def manifest(workers: int) -> Manifest:
    """A service of so many workers, each with a GPU."""
    halves = {"prefill": workers // 2, "decode": workers - workers // 2}
    pools = [
        {"name": role, "role": role, "replicas": replicas, "gpus": 1, "engine": {"kind": "mock"}}
        for role, replicas in halves.items()
    ]
    return service(pools=pools)


def measure(options: argparse.Namespace, cluster: Cluster, gateway: HostGateway) -> dict[str, Any]:
    each = manifest(options.workers // options.services)
    namespaces = [f"bench-{number}" for number in range(options.services)]
    for name in ("home", *namespaces):
        cluster.kubectl("create", "namespace", name)
    operator = Operator(cluster, "home", None, gateway)
    operator.start(log_level="debug", **PACE)
    bench = Bench(cluster, operator, dict.fromkeys(namespaces, each))
    print(
        f"{'phase':10} {'seconds':>8} {'rounds':>7} {'p50 s':>8} {'p99 s':>8} {'wait p50':>10}"
        f" {'wait p99':>10} {'cores':>7} {'calls':>7} {'peak MB':>8}"
    )
    within_s = 120 + 3 * options.workers
    one, two = "example/one:1", "example/one:2"
    figures = {"start": bench.phase("start", one, lambda: bench.settled(one), within_s)}
    end = time.monotonic() + options.seconds
    figures["idle"] = bench.phase(
        "idle", None, lambda: time.monotonic() > end, options.seconds + 60
    )
    figures["rollout"] = bench.phase("rollout", two, lambda: bench.settled(two), 2 * within_s)
    operator.stop_all()
    return {"phases": figures, "all": round_figures(bench.rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--services", type=int, default=50)
    parser.add_argument("--workers", type=int, default=500, help="of all services together")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the idle phase")
    parser.add_argument("--save", action="store_true", help="write results/bench-operator.json")
    options = parser.parse_args()
    size = f"{options.nodes} nodes, {options.services} services, {options.workers} workers"
    print(f"{hardware()}; {size}")
    with tempfile.TemporaryDirectory(prefix="baton-bench-operator-") as folder:
        tools = Tools()
        plane = ControlPlane(tools, Path(folder))
        try:
            plane.start()
            cluster = Cluster(plane.kubeconfig, Path(folder), tools, plane.processes)
            install_crds(cluster)
            with HostGateway() as gateway, cluster.kwok_nodes(options.nodes, capacity=GPUS):
                figures = measure(options, cluster, gateway)
        finally:
            plane.processes.stop_all()
    phases, of_all = figures["phases"].values(), figures["all"]
    peak = max(phase["peak_bytes"] for phase in phases)
    cores = max(phase["cores"] for phase in phases)
    print(
        f"all {of_all['rounds']} rounds: p50 {of_all['round_p50_s']:.3f} s, p99"
        f" {of_all['round_p99_s']:.3f} s (goal {GOAL_P99_S:g}); each had waited p50"
        f" {of_all['wait_p50_s']:.3f} s, p99 {of_all['wait_p99_s']:.3f} s; {peak / 1e6:.0f} MB"
        f" (goal {GOAL_BYTES / 1e6:.0f}), {cores:.2f} cores (goal {GOAL_CORES:g})"
    )
    if options.save:
        sizes = {name: getattr(options, name) for name in ("nodes", "services", "workers")}
        path = save("bench-operator", {**sizes, **figures})
        print("saved", path.relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
