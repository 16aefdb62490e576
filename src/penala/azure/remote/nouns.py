"""The jobs, models and endpoints of an Azure ML workspace, with the verbs and the answers of a local workspace."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from azure.ai.ml import MLClient
from azure.ai.ml import __version__ as VERSION
from azure.ai.ml.entities import Job, OnlineEndpoint
from azure.core.exceptions import ResourceNotFoundError

from penala.assets import LATEST, parse
from penala.azure.remote import serve, submit
from penala.azure.remote.connection import Connection
from penala.azure.remote.reasons import during, state_text
from penala.azure.remote.run import step_event
from penala.errors import EndpointError, JobError, ModelError, NotFound, UsageError, near
from penala.workspace.events import Event

Rows = list[dict[str, Any]]
NEWEST = 50  # jobs that a list shows


class RemoteWorkspace:
    """The nouns of one workspace in Azure."""

    def __init__(self, connection: Connection, on: str) -> None:
        """`on` is what `--on` takes for this workspace."""
        self.endpoints = RemoteEndpoints(connection.ml, on)
        self.jobs = RemoteJobs(connection.ml, on)
        self.models = RemoteModels(connection.ml)


class RemoteEndpoints:
    """What `Workspace.endpoints` is here, for the endpoints in Azure."""

    def __init__(self, ml: MLClient, on: str) -> None:
        self._ml = ml
        self._on = on

    def list(self) -> Rows:
        """Return what `show` gives of each endpoint."""
        with during("listing the endpoints", EndpointError):
            return [_endpoint_shown(one) for one in self._ml.online_endpoints.list()]

    def show(self, name: str) -> dict[str, Any]:
        """Return an endpoint's name, scoring_uri, openai_base_url (None), provisioning_state and traffic."""
        return _endpoint_shown(self._get(name))

    def keys(self, name: str) -> dict[str, str]:
        """Return primary_key and secondary_key."""
        with during(f"reading the keys of {name}", EndpointError):
            keys = self._ml.online_endpoints.get_keys(name)
        return {"primary_key": str(keys.primary_key), "secondary_key": str(keys.secondary_key)}

    def regenerate_key(self, name: str, which: str = "primary") -> dict[str, str]:
        """Make one key anew and return both."""
        with during(f"making the {which} key of {name} anew", EndpointError):
            self._ml.online_endpoints.begin_regenerate_keys(name, key_type=which).result()
        return self.keys(name)

    def set_traffic(self, name: str, traffic: Mapping[str, int]) -> dict[str, Any]:
        """Split the requests over deployments; the shares add up to 0 or to 100."""
        if sum(traffic.values()) not in (0, 100):
            raise UsageError(f"the shares add up to {sum(traffic.values())}", where=name, fix="make it 100, or 0")
        endpoint = self._get(name)
        endpoint.traffic = dict(traffic)
        with during(f"splitting the traffic of {name}", EndpointError):
            self._ml.begin_create_or_update(endpoint).result()
        return self.show(name)

    def delete(self, name: str) -> None:
        """Remove an endpoint with its deployments."""
        with during(f"deleting {name}", EndpointError):
            self._ml.online_endpoints.begin_delete(name).result()

    def deployments(self, name: str) -> Rows:
        """Return an endpoint's deployments: name, model, provisioning_state, instance_type and instance_count."""
        with during(f"listing the deployments of {name}", EndpointError):
            found = list(self._ml.online_deployments.list(name))
        return [
            {
                "name": one.name,
                "model": one.model,
                "provisioning_state": state_text(one.provisioning_state),
                "instance_type": one.instance_type,
                "instance_count": one.instance_count,
            }
            for one in found
        ]

    def logs(self, name: str, deployment: str, lines: int = 50) -> str:
        """Return the last lines that a deployment wrote."""
        with during(f"reading the log of {deployment}", EndpointError):
            return str(self._ml.online_deployments.get_logs(deployment, name, lines))

    def delete_deployment(self, name: str, deployment: str) -> None:
        """Remove a deployment that has no traffic."""
        if share := (self._get(name).traffic or {}).get(deployment):
            fix = f"`penala endpoints traffic {name} OTHER=100 --on {self._on}` moves it first"
            raise EndpointError(f"{deployment} has {share} % of the traffic", where=name, fix=fix)
        with during(f"deleting {deployment} of {name}", EndpointError):
            self._ml.online_deployments.begin_delete(deployment, name).result()

    def invoke(self, name: str, document: Any, *, deployment: str | None = None) -> Any:
        """Send a /score body, {"messages": [...]} or a list of messages, and return the answer."""
        from penala.endpoint.scoring import as_score_body

        return serve.score(self._ml, name, deployment, as_score_body(document))

    def _get(self, name: str) -> OnlineEndpoint:
        with during(f"looking up the endpoint {name}", EndpointError):
            try:
                return self._ml.online_endpoints.get(name)
            except ResourceNotFoundError as error:
                fix = f"`penala endpoints list --on {self._on}` shows all"
                raise NotFound(f"no endpoint is called {name!r}", fix=fix) from error


def _endpoint_shown(endpoint: OnlineEndpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "scoring_uri": endpoint.scoring_uri,
        "openai_base_url": None,
        "provisioning_state": state_text(endpoint.provisioning_state),
        "traffic": dict(endpoint.traffic or {}),
    }


class RemoteJobs:
    """What `Workspace.jobs` is here, for the jobs in Azure."""

    def __init__(self, ml: MLClient, on: str) -> None:
        self._ml = ml
        self._on = on

    def list(self) -> Rows:
        """Return the newest jobs: name, display_name, status, created (ISO text)."""
        with during("listing the jobs"):
            return [_job_line(job) for job in islice(self._ml.jobs.list(), NEWEST)]

    def show(self, name: str) -> dict[str, Any]:
        """Return a job's name, status, display_name, created, outputs, studio (its page) and jobs (its steps)."""
        with during(f"looking up the job {name}"):
            job = self._ml.jobs.get(name)
            steps = [_job_line(one) | {"reused": _is_reused(one)} for one in self._ml.jobs.list(parent_job_name=name)]
        studio = (job.services or {}).get("Studio")
        outputs = {key: {"path": one.path} for key, one in (getattr(job, "outputs", None) or {}).items()}
        return _job_line(job) | {"outputs": outputs, "studio": getattr(studio, "endpoint", None), "jobs": steps}

    def follow(self, name: str, show: Callable[[Event], None]) -> tuple[str, str | None]:
        """Show each step's new state until the job ends; return its status, and why it failed if it did."""
        state = submit.follow(self._ml, name, lambda step, state: show(step_event(step, state)))
        return state, str(submit.reason(self._ml, name, self._on)) if state == "Failed" else None

    def download(self, name: str, output: str | None, to: Path) -> Sequence[Path]:
        """Copy an output of an ended job to TO/named-outputs/OUTPUT, or all of them and TO/artifacts/; return where.

        Raises JobError while the job has not ended and for outputs that the SDK does not fetch, and NotFound for an
        output that it has not.
        """
        with during(f"looking up the job {name}"):
            job = self._ml.jobs.get(name)
        if (state := state_text(job.status)) not in submit.ENDED:
            raise JobError(f"the job is {state}", where=name, fix="wait until it has ended")
        outputs = [one for one in getattr(job, "outputs", None) or {} if one != "default"]
        if output is not None and output not in outputs:
            fix = near(output, outputs) or f"use {', '.join(outputs)}"
            raise NotFound(f"the job has no output '{output}'", where=name, fix=fix)
        artifacts = None if output is not None else self._fetch(name, None, to / "artifacts")
        wanted = outputs if output is None else [output]
        places = {one: self._fetch(name, one, to / "named-outputs" / one) for one in wanted}
        if missing := [one for one, place in places.items() if place is None]:
            what = f"azure-ai-ml {VERSION} does not fetch {', '.join(missing)}; some of its versions fetch no outputs"
            fix = f"register it, then `penala models download NAME:VERSION --to DIR --on {self._on}`"
            raise JobError(what, where=name, fix=f"{fix}; or pip install azure-ai-ml==1.27.1")
        return [place for place in (artifacts, *places.values()) if place is not None]

    def _fetch(self, name: str, output: str | None, place: Path) -> Path | None:
        """Copy an output, or the artifacts, to where the SDK puts them; return None where it fetches nothing."""
        with during(f"downloading from {name}"):
            try:
                self._ml.jobs.download(name, download_path=place.parents[output is not None], output_name=output)
            except TypeError:  # what 1.35.2 raises for an output that is a model
                return None
        return place if place.exists() else None

    def cancel(self, name: str) -> str:
        """Stop a job, wait until Azure has, and return its status."""
        with during(f"canceling {name}"):
            self._ml.jobs.begin_cancel(name).result()
            return state_text(self._ml.jobs.get(name).status)


def _job_line(job: Job) -> dict[str, Any]:
    created = job.creation_context.created_at if job.creation_context else None
    names = {"name": job.name, "display_name": job.display_name, "status": state_text(job.status)}
    return names | {"created": None if created is None else str(created)}


def _is_reused(job: Job) -> bool:
    return str((job.properties or {}).get("azureml.isreused", "")).lower() == "true"


class RemoteModels:
    """The registered models in Azure."""

    def __init__(self, ml: MLClient) -> None:
        self._ml = ml

    def list(self, task: str | None = None) -> Rows:
        """Return every model's name and newest version; with `task`, of those whose tag `task` says so."""
        with during("listing the models", ModelError):
            found = [{"name": one.name, "version": one.latest_version} for one in self._ml.models.list()]
        return [one for one in found if task is None or self._task(one) == task]

    def _task(self, named: Mapping[str, Any]) -> str | None:
        """Return the tag of a version; Azure's list of the models does not have it."""
        with during(f"looking up the model {named['name']}", ModelError):
            tags = self._ml.models.get(named["name"], version=named["version"]).tags or {}
        return tags.get("task")

    def download(self, reference: str, to: Path) -> Path:
        """Copy the files of a model version to the new folder `to`; return it. Raises UsageError when it is there."""
        wanted, to = parse(reference, "models"), Path(os.path.expanduser(to)).absolute()
        if to.exists():
            raise UsageError("exists already", where=str(to), fix="name a new folder")
        version = str(self.show(reference)["version"])
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as work:
            with during(f"downloading the model {wanted}", ModelError):
                self._ml.models.download(wanted.name, version, download_path=work)
            made = Path(work) / wanted.name
            package = next((file.parent for file in made.rglob("MLmodel")), made)  # the SDK adds a folder, or none
            package.replace(to)
        return to

    def show(self, reference: str) -> dict[str, Any]:
        """Return a model version: name, version, id, type, tags, properties, and the job that made it."""
        wanted = parse(reference, "models")
        version = {"label": LATEST} if wanted.version == LATEST else {"version": wanted.version}
        with during(f"looking up the model {wanted}", ModelError):
            model = self._ml.models.get(wanted.name, **version)
        named = {key: getattr(model, key) for key in ("name", "version", "id", "type")}
        about = {"tags": dict(model.tags or {}), "properties": dict(model.properties or {})}
        return named | about | {"job": model.job_name}
