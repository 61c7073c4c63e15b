"""A pass over one resource: observe, decide, act; then one status write, if it differs.

What must stay true: what is counted is written before anything follows from it; every act may be repeated; a pass that
is interrupted anywhere is made good by the next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tessera_api.dataset_build import DatasetBuildStatus
from tessera_api.orders import StopRun
from tessera_api.training_run import OPERATOR
from tessera_api.training_run_status import TrainingRunStatus
from tessera_operator import builders
from tessera_operator.act import (
    begin_run,
    delete_pods,
    keep_key,
    keep_place,
    make_build,
    make_pods,
    say,
    tell_endings,
)
from tessera_operator.cluster import Cluster, NamespaceEnding, drilled, ours
from tessera_operator.coordinators import Coordinators
from tessera_operator.core import build_decision
from tessera_operator.core.api_drill import ApiDrills
from tessera_operator.core.build_decision import BuildView
from tessera_operator.core.prerequisites import Blocked
from tessera_operator.core.queue import must_go
from tessera_operator.core.run_decision import STOP_SECONDS, Plan, decide, may_stop, written_end
from tessera_operator.core.run_status import run_status, worth_writing
from tessera_operator.core.slots import DeletePod
from tessera_operator.core.view import Pod, View
from tessera_operator.keys import ring
from tessera_operator.observe import (
    Found,
    Known,
    Pinned,
    Unreadable,
    find,
    machines,
    pinned,
    pods_named,
    queue_of,
    read_run,
    seconds,
    view_build,
    view_run,
)
from tessera_operator.profiles import Gang, Settings
from tessera_operator.topology import Topology
from tessera_operator.wakes import Key

logger = logging.getLogger(__name__)

RUN, BUILD = "trainingruns", "datasetbuilds"
ORPHANS_SECONDS = 5.0
SOON = 0.2
NUMBERS_SECONDS = 12.0
"""How often a status is written of which only the numbers differ."""


class Overtaken(Exception):
    """Somebody else has written the resource: the pass is begun anew."""


class Reconciler:
    """See the module. `work` is one pass over one key."""

    def __init__(self, cluster: Cluster, settings: Settings, secret: bytes, coordinators: Coordinators) -> None:
        self._cluster, self._settings, self._secret = cluster, settings, secret
        self._coordinators = coordinators
        self._topology = Topology(cluster)
        self._api_drills = ApiDrills()
        self._written: dict[str, float] = {}
        self._uids: dict[Key, str] = {}
        self.phases: dict[object, tuple[str, str]] = {}
        """Kind and phase of each resource, as last decided; for the metrics."""
        self._blocked: set[Key] = set()
        """Runs that wait for something that may have changed when a build or another run has."""
        self._lost: dict[str, dict[str, str]] = {}
        """The nodes that each run avoids, by the run's uid: no run gets a pod there."""
        self._noteworthy: set[str] = set()
        """Nodes of the cluster that bear a sign."""
        self._used: dict[str, frozenset[str]] = {}
        """The nodes of the cluster on which each run has pods, by the run's uid."""
        self.wake: Callable[[Key], None] = lambda key: None
        self.on_begin: Callable[[float], None] = lambda waited: None
        """Told of each run's first start, and how long after its creation that was, in seconds."""

    def key_of(self, uid: str) -> Key | None:
        """The run with this uid."""
        return next((key for key, known in self._uids.items() if known == uid), None)

    def machine(self, name: str, noteworthy: bool) -> None:
        """A node of the cluster bears a sign, or none any more: the runs on it look at it."""
        if noteworthy == (name in self._noteworthy):
            return
        self._noteworthy ^= {name}
        for key, uid in self._uids.items():
            if name in self._used.get(uid, frozenset()):
                self.wake(key)

    async def work(self, key: Key) -> float | None:
        """Returns when to look again. Raises ClusterError."""
        suffers = drilled.set(self._api_drills.hurts(self._uids.get(key), time.monotonic()))
        try:
            return await self._work(key)
        finally:
            drilled.reset(suffers)

    async def _work(self, key: Key) -> float | None:
        found = await find(self._cluster, key.kind, key.namespace, key.name)
        known = self._uids.get(key)
        if known is not None and (found is None or found.uid != known):
            self._coordinators.forget(known)
            self._api_drills.forget(known)
            del self._uids[key]
            self._lost.pop(known, None)
            self._used.pop(known, None)
            self._written.pop(known, None)
        if found is None or found.deleting:
            self.phases.pop(key, None)
            return await self._orphans(key) if key.kind == RUN else None
        if self._uids.get(key) != found.uid:  # new: somebody may wait for it
            self._wake_blocked(key.namespace)
        self._uids[key] = found.uid
        self._blocked.discard(key)
        try:
            return await (self._run(found) if key.kind == RUN else self._build(found))
        except Overtaken:
            return SOON
        except NamespaceEnding:
            return await self._orphans(key) if key.kind == RUN else None
        except Unreadable as error:
            logger.error("%s %s/%s: %s", key.kind, key.namespace, key.name, error)
            return None

    async def _run(self, found: Found) -> float | None:
        run = read_run(found)
        if run.spec.managed_by != OPERATOR:
            return None  # another controller's
        status = run.status or TrainingRunStatus()
        start = await pinned(self._cluster, found, status.start or 1)
        queue = await queue_of(self._cluster, found, run, start, self._settings.gang)
        evicted = must_go(run, start.resolved if start else None, queue) != ""
        if written_end(status) is not None or start is None:
            self._coordinators.forget(found.uid)
        else:
            addresses = start.resolved.coordinator
            keys = ring(self._secret, found.uid, start.resolved.first_key, status.key.number if status.key else None)
            self._coordinators.watch(found.uid, addresses, keys, may_stop(run, evicted))
        elsewhere = {
            node: since for uid, lost in self._lost.items() if uid != found.uid for node, since in lost.items()
        }
        settings = self._settings
        known = Known(
            run,
            start.resolved if start else None,
            frozenset(settings.profiles),
            settings.pod_templates,
            elsewhere,
            settings.gang in (Gang.KUEUE, Gang.VOLCANO),
            queue,
            settings.key_days,
            settings.signs,
            frozenset(self._noteworthy),
        )
        view = await view_run(self._cluster, found, known, self._coordinators)
        self._used[found.uid] = frozenset(pod.node for pod in view.pods if pod.node is not None)
        plan = decide(view)
        await self._let_go(found.namespace, view.others)
        if plan.hosts is not None:
            self._lost[found.uid] = plan.hosts.gone
        if plan.expired:
            logger.info("run %s/%s deleted: its time after the end is over", found.namespace, found.name)
            await self._cluster.delete(ours(found.namespace, RUN, found.name), found.uid)
            return None
        await self._carry_out(found, view, plan, start)
        return plan.look_again

    async def _carry_out(self, found: Found, view: View, plan: Plan, start: Pinned | None) -> None:
        """What is counted first, then pods and orders, the status last."""
        await keep_place(self._cluster, found, view, plan, self._settings)
        await keep_key(self._cluster, found, view, plan, self._secret)
        if start is not None and plan.over is None:
            found = await self._count(found, view, plan)
        if plan.blocked is not None:
            self._blocked.add(Key(RUN, found.namespace, found.name))
        if plan.begin:
            await begin_run(self._cluster, found, view, self._settings, self._secret)
            if view.start_number == 1:
                self.on_begin(view.now - view.created)
        if start is not None and plan.over is None:
            tell_endings(self._coordinators, found.uid, view)
            await make_pods(self._cluster, found, start, plan)
        await self._order(found, view, plan)
        await delete_pods(self._cluster, found.namespace, plan.delete)
        await self._write_run(found, view, plan)

    async def _order(self, found: Found, view: View, plan: Plan) -> None:
        """What the coordinator is to know, and what it tells of a drill that is this operator's part."""
        if view.answer is not None:
            shown = view.answer.status.drills or ()
            self._api_drills.asked(found.uid, plan.drill, shown, time.monotonic())
        if view.start is not None and view.start.ordered_by and plan.over is None:
            places = await self._topology.places(view.pods, view.start.ordered_by)
            self._coordinators.order(found.uid, places)
        for order in (plan.size, plan.warnings, plan.drill):
            if order is not None:
                self._coordinators.order(found.uid, order)
        if plan.stop:
            self._coordinators.stop(found.uid, StopRun(reason=plan.stop, deadline_seconds=STOP_SECONDS))

    async def _orphans(self, key: Key) -> float | None:
        """The run is gone, or its namespace is about to be."""
        pods = await pods_named(self._cluster, key.namespace, key.name)
        return ORPHANS_SECONDS if await self._let_go(key.namespace, pods) else None

    async def _let_go(self, namespace: str, pods: tuple[Pod, ...]) -> bool:
        """Pods of a run that is gone, which are being deleted: those on lost nodes leave the API by our hand alone.
        Whether there are any."""
        going = [pod for pod in pods if pod.deleting]
        known = await machines(self._cluster, [pod.node for pod in going if pod.node is not None])
        for pod in going:
            machine = known.get(pod.node) if pod.node is not None else None
            if pod.node is not None and (machine is None or machine.suspect):
                gone = DeletePod(pod.name, pod.uid, True, f"its run is gone and node {pod.node} lost")
                await delete_pods(self._cluster, namespace, (gone,))
        return bool(going)

    async def _count(self, found: Found, view: View, plan: Plan) -> Found:
        """Write the attempts down before a pod is made or deleted because of them."""
        after = run_status(view, plan)
        counted = ("attempts", "avoided", "losses", "start", "key")
        status = view.status.model_copy(update={name: getattr(after, name) for name in counted})
        if status == view.status:
            return found
        again = (
            await find(self._cluster, RUN, found.namespace, found.name) if await self._put(found, RUN, status) else None
        )
        if again is None:
            raise Overtaken("the resource was changed meanwhile: nothing is done that was not written down")
        return again

    async def _write_run(self, found: Found, view: View, plan: Plan) -> None:
        after = run_status(view, plan)
        self.phases[Key(RUN, found.namespace, found.name)] = (RUN, str(after.phase))
        differs, matters = worth_writing(view.status, after)
        now = time.monotonic()
        if not differs or (not matters and now - self._written.get(found.uid, -NUMBERS_SECONDS) < NUMBERS_SECONDS):
            return
        if await self._put(found, RUN, after):
            self._written[found.uid] = now
            if view.status.phase != after.phase:
                if plan.over is not None:
                    self._wake_blocked(found.namespace)
                await say(self._cluster, found, "TrainingRun", str(after.phase), _news(after, plan.blocked))

    async def _build(self, found: Found) -> float | None:
        seen = await view_build(self._cluster, found)
        running = any((pod.get("status") or {}).get("phase") == "Running" for pod in seen.pods)
        view = BuildView(
            build=seen.build,
            generation=found.generation,
            now=time.time(),
            has_job=seen.job is not None,
            job_failed=build_decision.job_failed(seen.job),
            running=running,
            endings=build_decision.endings(seen.pods, seconds),
            progress=await builders.ask(seen.pods) if running else None,
        )
        plan = build_decision.decide(view)
        self.phases[Key(BUILD, found.namespace, found.name)] = (BUILD, str(plan.status.phase))
        if plan.make:
            await make_build(self._cluster, found, seen.build, self._settings)
        if plan.status != seen.build.status and await self._put(found, BUILD, plan.status):
            self._wake_blocked(found.namespace)
            before = seen.build.status.phase if seen.build.status else None
            if plan.status.phase != before:
                words = plan.status.conditions[0].message if plan.status.conditions else ""
                await say(self._cluster, found, "DatasetBuild", str(plan.status.phase), words)
        return None if plan.over else 10.0

    def _wake_blocked(self, namespace: str) -> None:
        for key in [key for key in self._blocked if key.namespace == namespace]:
            self.wake(key)

    async def _put(self, found: Found, plural: str, status: TrainingRunStatus | DatasetBuildStatus) -> bool:
        document = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        path = ours(found.namespace, plural, found.name)
        return await self._cluster.patch_status(path, document, found.version)


def _news(status: TrainingRunStatus, blocked: Blocked | None) -> str:
    if blocked is not None:
        return blocked.message
    chosen = {"Succeeded", "Running"}
    words = [c.message for c in status.conditions or () if c.type in chosen]
    return words[0] if status.phase in ("Succeeded", "Failed") else words[-1]
