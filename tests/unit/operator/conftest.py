"""What several tests of the operator get."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from baton_operator.kube.client import KubeClient
from fakes.kube_api import KubeApi, served


@pytest.fixture
async def client(api: KubeApi) -> AsyncIterator[KubeClient]:
    async with served(api) as configuration:
        client = KubeClient(configuration, timeout_s=5)
        yield client
        await client.close()
