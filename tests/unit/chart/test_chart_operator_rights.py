"""templates/operator/rbac.yaml, lease-rbac.yaml, serviceaccount.yaml: it should ..."""

from __future__ import annotations

import pytest

from baton_operator import kinds
from unit.chart.rendering import Chart, Manifest

pytestmark = pytest.mark.helm


def _may(role: Manifest) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_operator_should_never_read_secrets(chart: Chart) -> None:
    roles = [each for each in chart.objects() if each["kind"] in ("Role", "ClusterRole")]
    assert roles
    for role in roles:
        for _, resource, verb in _may(role):
            assert "*" not in (resource, verb)
            assert resource != "secrets" or verb in ("create", "patch")


def test_operator_should_watch_and_apply_every_kind_that_it_makes(chart: Chart) -> None:
    may = _may(chart.get("ClusterRole", "ns:rel-baton-operator"))
    for kind in kinds.WATCHED:
        assert {(kind.group, kind.plural, verb) for verb in ("list", "watch")} <= may
    for kind in kinds.CHILDREN:
        assert {(kind.group, kind.plural, verb) for verb in ("create", "patch")} <= may


def test_operator_should_have_no_rights_on_other_kinds(chart: Chart) -> None:
    known = {
        (kind.group, kind.plural)
        for kind in (*kinds.WATCHED, kinds.SECRET, kinds.EVENT, kinds.NAMESPACE)
    }
    may = _may(chart.get("ClusterRole", "ns:rel-baton-operator"))
    assert {(group, resource.partition("/")[0]) for group, resource, _ in may} <= known


def test_one_namespace_should_need_no_cluster_role(chart: Chart) -> None:
    objects = chart.objects("operator.namespaced=true")
    assert not [each for each in objects if each["kind"].startswith("ClusterRole")]
    role = chart.get("Role", "rel-baton-operator", "operator.namespaced=true")
    assert role["metadata"]["namespace"] == "ns"
    assert _may(role) == _may(chart.get("ClusterRole", "ns:rel-baton-operator"))


def test_cluster_wide_names_should_differ_between_any_two_releases(chart: Chart) -> None:
    """Release `b-baton` in `v` and release `baton` in `v-b` are two."""
    names = [
        {
            (each["kind"], each["metadata"]["name"])
            for each in chart.objects(release=release, namespace=namespace)
            if each["kind"].startswith("ClusterRole")
        }
        for release, namespace in (("b-baton", "v"), ("baton", "v-b"))
    ]
    # Of the operator and of the hook, each with its binding.
    assert [len(each) for each in names] == [4, 4]
    assert not names[0] & names[1]


@pytest.mark.parametrize("namespaced", ["true", "false"])
def test_role_should_say_whom_it_lets_the_operator_serve(chart: Chart, namespaced: str) -> None:
    """By this the check of a further release finds it, and nothing else."""
    objects = chart.objects(f"operator.namespaced={namespaced}")
    marked = [each for each in objects if "baton.dev/serves" in each["metadata"]["labels"]]
    found = [(each["kind"], each["metadata"]["labels"]["baton.dev/serves"]) for each in marked]
    assert found == [("Role", "namespace") if namespaced == "true" else ("ClusterRole", "cluster")]


def test_operator_should_hold_its_own_lease_alone(chart: Chart) -> None:
    role = chart.get("Role", "rel-baton-operator-lease")
    by_verb = {tuple(rule["verbs"]): rule.get("resourceNames") for rule in role["rules"]}
    # Creating cannot be limited to a name.
    assert by_verb == {("create",): None, ("get", "update"): ["rel-baton-operator"]}


@pytest.mark.parametrize("namespaced", ["true", "false"])
def test_every_binding_should_be_of_the_operator_and_of_a_role_that_is_there(
    chart: Chart, namespaced: str
) -> None:
    objects = chart.objects(f"operator.namespaced={namespaced}", "crds.upgrade=false")
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    bindings = [each for each in objects if each["kind"].endswith("Binding")]
    assert len(bindings) == 2
    for binding in bindings:
        role = binding["roleRef"]
        assert (role["kind"], role["name"]) in there
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "rel-baton-operator", "namespace": "ns"}
        ]


def test_rights_should_go_to_an_account_of_the_users(chart: Chart) -> None:
    sets = ("operator.serviceAccount.create=false", "operator.serviceAccount.name=mine")
    binding = chart.get("ClusterRoleBinding", "ns:rel-baton-operator", *sets)
    assert binding["subjects"][0]["name"] == "mine"
    assert chart.find("ServiceAccount", "mine", *sets) is None
    deployment = chart.get("Deployment", "rel-baton-operator", *sets)
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
