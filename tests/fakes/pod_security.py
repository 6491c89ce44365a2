"""Pod Security Standards, profile restricted (which includes baseline), as checks on a pod spec.

Source: kubernetes.io/docs/concepts/security/pod-security-standards, as of Kubernetes 1.34; all
controls for Linux pods and those for Windows' host processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
_SELINUX_TYPES = {
    *("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"),
}
_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"),
    *("net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time"),
    *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"),
}
_CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")


def violations(template: Mapping[str, Any]) -> list[str]:
    """What a namespace that enforces `restricted` would refuse of a pod template."""
    return [*_of_pod(template), *(each for c in _containers(template) for each in _of(c, template))]


def _of_pod(template: Mapping[str, Any]) -> Iterator[str]:
    spec = template["spec"]
    security = spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes", ()):
        for kind in volume.keys() - {"name"}:
            if kind not in _VOLUMES:
                yield f"volume {volume['name']}: {kind}"
    for sysctl in security.get("sysctls", ()):
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for name, value in template.get("metadata", {}).get("annotations", {}).items():
        apparmor = name.startswith("container.apparmor.security.beta.kubernetes.io/")
        if apparmor and not (value == "runtime/default" or value.startswith("localhost/")):
            yield f"annotation {name}: {value}"
    yield from _of_security("pod", security)


def _of(container: Mapping[str, Any], template: Mapping[str, Any]) -> Iterator[str]:
    name = container["name"]
    own = container.get("securityContext", {})
    pod = template["spec"].get("securityContext", {})
    capabilities = own.get("capabilities", {})
    if own.get("privileged"):
        yield f"{name}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    if "ALL" not in capabilities.get("drop", ()):
        yield f"{name}: does not drop ALL"
    for added in capabilities.get("add", ()):
        if added != "NET_BIND_SERVICE":
            yield f"{name}: adds {added}"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{name}: runAsNonRoot"
    if "seccompProfile" not in own and "seccompProfile" not in pod:
        yield f"{name}: no seccompProfile"
    for port in container.get("ports", ()):
        if port.get("hostPort"):
            yield f"{name}: hostPort {port['hostPort']}"
    for handler in _handlers(container):
        if handler.get("host"):
            yield f"{name}: asks host {handler['host']}"
    yield from _of_security(name, own)


def _of_security(name: str, security: Mapping[str, Any]) -> Iterator[str]:
    """What pods and containers have in common."""
    if security.get("runAsUser") == 0:
        yield f"{name}: runAsUser 0"
    if security.get("windowsOptions", {}).get("hostProcess"):
        yield f"{name}: hostProcess"
    profile = security.get("seccompProfile")
    if profile is not None and profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name}: seccompProfile {profile.get('type')}"
    apparmor = security.get("appArmorProfile", {}).get("type", "RuntimeDefault")
    if apparmor not in ("RuntimeDefault", "Localhost"):
        yield f"{name}: appArmorProfile {apparmor}"
    selinux = security.get("seLinuxOptions", {})
    if selinux.get("type", "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{name}: seLinuxOptions"


def _containers(template: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for kind in _CONTAINER_LISTS:
        yield from template["spec"].get(kind, ())


def _handlers(container: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    hooks = container.get("lifecycle", {})
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    for each in (*(container.get(name, {}) for name in probes), *hooks.values()):
        for kind in ("httpGet", "tcpSocket"):
            yield each.get(kind, {})
