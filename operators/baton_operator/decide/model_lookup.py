"""What the spec's model stands for, and whether it is where workers read it.

A branch or tag is looked up once, by a Job, which on a shared volume downloads too; the commit is
kept in the service's status until the spec names something else.
"""

from __future__ import annotations

from dataclasses import dataclass

from baton_operator.decide import fetch_result
from baton_operator.decide.text import size_text
from baton_operator.decide.troubles import Trouble, of_pod
from baton_operator.seen import Manifest, Progress, Seen
from baton_operator.types.model import ModelSpec
from baton_operator.types.status import ModelStatus


@dataclass(frozen=True, slots=True)
class ModelState:
    """Where the model is on its way into the cache."""

    commit: str | None = None
    """What the revision stands for; None: nothing to look up, or nobody knows."""
    ready: bool = False
    """Whether workers can be made: their revision is known, and what they read is there."""
    failed: bool = False
    reason: str = ""
    message: str = ""
    progress: str = ""
    """Of a download under way."""


def model_state(seen: Seen, job_name: str | None) -> ModelState:
    """`job_name` is that of the Job for what the spec names now; None: nothing is fetched."""
    model = seen.service.spec.model
    if job_name is None:
        return ModelState(ready=True, reason="Present", message=_where(model))
    commit = recorded_commit(seen)
    if commit is not None:
        return _found(model, commit)
    job = seen.of_kind("Job").get(job_name)
    pods = [pod for pod in seen.pods if pod.component == "fetch" and pod.job == job_name]
    conditions = _conditions(job)
    succeeded = (pod.result for pod in pods if pod.phase == "Succeeded")
    commits = [each for text in succeeded if (each := fetch_result.commit(text)) is not None]
    if "Complete" in conditions or "SuccessCriteriaMet" in conditions:
        return _found(model, commits[0] if commits else model.revision or "main")
    if "Failed" in conditions:
        said = next((pod.result for pod in pods if pod.result), "")
        why = fetch_result.problem(said) or conditions["Failed"]
        return ModelState(
            failed=True,
            reason="FetchFailed",
            message=f"{model.source} could not be fetched: {why}; when that is mended, delete the "
            f"Job {job_name} to try again",
        )
    trouble = next((found for pod in pods if (found := of_pod(pod)) is not None), None)
    return _under_way(model, trouble, _progress(seen, [pod.name for pod in pods]))


def recorded_commit(seen: Seen) -> str | None:
    """From the status, if it is about what the spec names now."""
    model = seen.service.spec.model
    recorded = ModelStatus.model_validate(seen.service.status.get("model") or {})
    if (recorded.source, recorded.requested) != (model.source, model.revision):
        return None
    return recorded.revision


def _found(model: ModelSpec, commit: str) -> ModelState:
    where = "on the shared volume" if model.cache.shared else "downloaded by each pod"
    return ModelState(commit, True, reason="Cached", message=f"{model.source}@{commit}, {where}")


def _under_way(model: ModelSpec, trouble: Trouble | None, progress: Progress | None) -> ModelState:
    if trouble is not None:
        return ModelState(reason=trouble.reason, message=trouble.message)
    if not model.cache.shared:
        return ModelState(reason="LookingUp", message=f"looking up {model.source}")
    done = "" if progress is None else size_text(progress.num_bytes, progress.total_bytes)
    text = f"downloading {model.source}" + (f": {done}" if done else "")
    return ModelState(reason="Downloading", message=text, progress=done)


def _progress(seen: Seen, pods: list[str]) -> Progress | None:
    return next((seen.progress[name] for name in pods if name in seen.progress), None)


def _conditions(job: Manifest | None) -> dict[str, str]:
    """Those that hold, with their messages."""
    found = ((job or {}).get("status") or {}).get("conditions") or ()
    return {each["type"]: each.get("message", "") for each in found if each["status"] == "True"}


def _where(model: ModelSpec) -> str:
    if model.from_folder:
        return f"read from {model.source} of the volume"
    return f"{model.source} is a part of the image"
