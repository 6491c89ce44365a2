"""All that a service owns but the workers of its revisions."""

from __future__ import annotations

from baton_operator.resources.autoscaling import gateway_autoscaler
from baton_operator.resources.context import Context, Manifest
from baton_operator.resources.disruption import gateway_budget, pool_budget
from baton_operator.resources.exposure import gateway_service, ingress, routes
from baton_operator.resources.gateway import gateway_config_map, gateway_deployment
from baton_operator.resources.internal_secret import internal_secret
from baton_operator.resources.monitors import monitors
from baton_operator.resources.network_policies import network_policies
from baton_operator.resources.pods.model_cache import claim
from baton_operator.resources.service_accounts import service_accounts
from baton_operator.resources.worker_pool import worker_pool


def children(context: Context) -> list[Manifest]:
    """In an order in which each finds what it refers to; all wanted at any time.

    Of revisions there are besides, each when it is wanted: `revision_config.revision_config`,
    `worker_deployment.workload`, and, where `ModelSpec.needs_fetch`, `model_cache.fetch_job`.
    Raises ConfigError for a podTemplate that cannot be merged.
    """
    pools = context.spec.pools
    wanted = [
        *service_accounts(context),
        *network_policies(context),
        internal_secret(context),
        claim(context),
        *(worker_pool(context, pool) for pool in pools),
        *(pool_budget(context, pool) for pool in pools),
        gateway_config_map(context),
        gateway_service(context),
        gateway_deployment(context),
        gateway_budget(context),
        gateway_autoscaler(context),
        ingress(context),
        *routes(context),
        *monitors(context),
    ]
    return [manifest for manifest in wanted if manifest is not None]
