"""Leader election on a Lease: of several operators one works.

What must stay true: the time of others is never compared with ours: another's lease has run out when we have seen it
unchanged for its whole duration, by our monotonic clock; every request has a limit shorter than what is left; who
could not renew for `RENEW_SECONDS` is no leader any more, before anybody else can be one, and ends its process. Numbers
and idea are those of Kubernetes' own client library (client-go, tools/leaderelection).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from tessera_operator.cluster import Cluster, ClusterError, Json, lease

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
RENEW_SECONDS = 10.0
RETRY_SECONDS = 2.0


class LeadershipLost(Exception):
    """Somebody else may lead by now: this process has to end."""


class Leader:
    """One candidate, `identity`, for the Lease `name` in `namespace`."""

    def __init__(
        self, cluster: Cluster, namespace: str, name: str, identity: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster, self._identity, self._clock = cluster, identity, clock
        self._namespace, self._name = namespace, name
        self._seen: Json = {}
        """The lease's spec as it was last read."""
        self._seen_at = 0.0
        """When it was first seen so."""
        self._renewed = 0.0
        """When the request that last renewed it was begun: its answer may have been long under way."""

    async def acquire(self) -> None:
        """Until this process leads."""
        while True:
            if await self.attempt():
                logger.info("%s leads", self._identity)
                return
            await asyncio.sleep(RETRY_SECONDS * random.uniform(0.8, 1.2))

    async def keep(self, pause: float = RETRY_SECONDS) -> None:
        """Renew for as long as this process leads. Raises LeadershipLost."""
        while True:
            await asyncio.sleep(pause)
            left = RENEW_SECONDS - (self._clock() - self._renewed)
            if left <= 0:  # the process was asleep for longer than a lease allows
                raise LeadershipLost(f"the lease was not renewed for {RENEW_SECONDS - left:.0f} s")
            try:
                async with asyncio.timeout(left):
                    held = await self.attempt()
            except TimeoutError:
                held = False
            if not held and self._holder() not in ("", self._identity):
                raise LeadershipLost(f"{self._holder()} leads")

    async def release(self) -> None:
        """Another one may lead at once. Best effort: otherwise the lease runs out."""
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                found = await self._cluster.get(lease(self._namespace, self._name))
                if found is not None and found["spec"].get("holderIdentity") == self._identity:
                    found["spec"]["holderIdentity"] = ""
                    await self._cluster.replace(lease(self._namespace, self._name), found)
        except (ClusterError, TimeoutError) as error:
            logger.info("the lease was not released: %s", error)

    async def attempt(self) -> bool:
        """Take or renew the lease, once. Whether this process leads now."""
        began = self._clock()
        held = await self._write()
        if held:
            self._renewed = began
        return held

    async def _write(self) -> bool:
        try:
            found = await self._cluster.get(lease(self._namespace, self._name))
            if found is None:
                return await self._cluster.create(lease(self._namespace), self._document({}))
            self._look(found.get("spec") or {})
            if self._holder() not in ("", self._identity) and self._clock() - self._seen_at < LEASE_SECONDS:
                return False
            return await self._cluster.replace(lease(self._namespace, self._name), self._document(found))
        except ClusterError as error:
            logger.warning("the lease can't be read or written: %s", error)
            return False

    def _look(self, spec: Json) -> None:
        if spec != self._seen:
            self._seen, self._seen_at = spec, self._clock()

    def _holder(self) -> str:
        return str(self._seen.get("holderIdentity") or "")

    def _document(self, found: Json) -> Json:
        """The lease as it is with us as its holder; `found` carries the version that it must still have."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = found.get("spec") or {}
        ours = before.get("holderIdentity") == self._identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": found.get("metadata") or {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(LEASE_SECONDS),
                "acquireTime": before.get("acquireTime") if ours else now,
                "renewTime": now,
                "leaseTransitions": int(before.get("leaseTransitions") or 0) + (not ours),
            },
        }
