"""Names of objects fit their kinds, and selectors pick what labels say."""

from __future__ import annotations

import re
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from baton_operator import names

services = st.from_regex(r"[a-z]([-a-z0-9]{0,36}[a-z0-9])?", fullmatch=True)
pools = st.from_regex(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
revisions = st.from_regex(r"[0-9a-f]{10}", fullmatch=True)
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
# -<hash of the template>-<random>, as Deployments name their pods; StatefulSets add 11.
POD_SUFFIX = len("-7c5ddbdf54-x2x4p")


@given(services, pools, revisions)
def test_every_name_is_a_dns_label(service: str, pool: str, revision: str) -> None:
    for name in (
        names.worker_pool(service, pool),
        names.pool_workload(service, pool, revision),
        names.gateway(service),
        names.workers(service),
        names.revision_config(service, revision),
        names.internal_secret(service, "0b1c2d3e-uid"),
        names.model_claim(service),
        names.fetch_job(service, revision),
    ):
        assert DNS_LABEL.fullmatch(name)


@given(services, pools, revisions)
def test_pods_can_be_named_after_what_makes_them(service: str, pool: str, revision: str) -> None:
    for name in (names.pool_workload(service, pool, revision), names.gateway(service)):
        assert len(name) + POD_SUFFIX <= 63


@given(services)
def test_the_gateways_name_is_never_cut(service: str) -> None:
    assert names.gateway(service) == f"{service}-gateway"


@given(services, st.uuids(), st.uuids())
def test_a_services_secret_has_a_name_that_nobody_else_would_take(
    service: str, uid: UUID, another: UUID
) -> None:
    name = names.internal_secret(service, str(uid))
    assert re.fullmatch(re.escape(service) + "-internal-[0-9a-f]{8}", name)
    assert uid == another or name != names.internal_secret(service, str(another))


@given(services, st.lists(st.tuples(pools, revisions), min_size=2, max_size=8, unique=True))
def test_what_differs_after_the_cut_stays_apart(service: str, parts: list[tuple[str, str]]) -> None:
    workloads = {names.pool_workload(service.ljust(38, "x"), *each) for each in parts}
    assert len(workloads) == len(parts)


def test_parts_are_told_apart_where_the_text_is_cut() -> None:
    """Another service's pool may spell the same text."""
    long = "a" * 30
    assert names.joined(long, "b-c", "d" * 40) != names.joined(f"{long}-b", "c", "d" * 40)


@given(services, pools, revisions)
def test_selectors_pick_the_pods_that_carry_the_labels(
    service: str, pool: str, revision: str
) -> None:
    labels = names.worker_labels(service, pool, "decode", revision)
    for selector in (
        names.selector(service, "worker"),
        names.pool_selector(service, pool),
        names.revision_selector(service, pool, revision),
    ):
        assert selector.items() <= labels.items()
    assert not names.selector(service, "gateway").items() <= labels.items()


def test_a_selector_as_text_is_sorted() -> None:
    assert names.selector_text({"b": "2", "a": "1"}) == "a=1,b=2"
