"""What the fake knows and how it answers: one workspace in eastus, and the registry `azureml`."""

import base64
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from fake_azure.contents import registry_model
from fake_azure.proxy import Answer, Call, Proxy, refusal

TENANT = "11111111-1111-1111-1111-111111111111"
SUBSCRIPTION, GROUP, WORKSPACE = "22222222-2222-2222-2222-222222222222", "tuners", "kopi"
PROVIDER = "Microsoft.MachineLearningServices"
ARM = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{PROVIDER}/workspaces/{WORKSPACE}"
REGION = "eastus"
API = f"{REGION}.api.azureml.ms"
LOGIN, MANAGEMENT = r"login\.microsoftonline\.com", r"management\.azure\.com"
WS = MANAGEMENT + ARM.replace(".", r"\.")
REGISTRY = (
    rf"{API}/mferp/managementfrontend/subscriptions/[^/]+/resourceGroups/[^/]+/providers/{PROVIDER}/registries/azureml"
)
HISTORY = rf"{API}/history/v1\.0{ARM}"
LOCATION = rf"{MANAGEMENT}/subscriptions/[^/]+/providers/{PROVIDER}/locations/{REGION}"
VERSIONED = "(?:models|codes|components|environments|data)"
MOMENT = "2026-01-01T00:00:00.0000000+00:00"
STEPS = ("ft_nlp_common_validation", "chat_completion_finetune", "ft_nlp_model_converter")


class FakeAzure:
    """State that tests look at and change, behind a Proxy that they make fail."""

    def __init__(self, folder: Path) -> None:
        self.models: dict[str, dict[str, Any]] = {}  # of the registry: name -> version -> REST properties
        self.components: dict[str, dict[str, Any]] = {}
        self.sizes: list[dict[str, Any]] = []
        self.usages: list[dict[str, Any]] = []
        self.kept: dict[str, Any] = {}  # what was put into the workspace, by its path in small letters
        self.blobs: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.operations: dict[str, list[Any]] = {}
        self.job_ends = "Completed"
        self.job_polls = 2  # questions about a job before it ends
        self.on_question: Callable[[], None] | None = None  # called when a job is asked after
        self.broken: dict[str, tuple[str, str]] = {}  # kind -> (code, message) with which its operations fail
        self.replies: list[Answer] = []  # what scoring answers first; then {"output": ...}
        self.proxy = Proxy(folder, self._routes())

    def _routes(self) -> list[tuple[str, str, Any]]:
        version = rf"{VERSIONED}/[^/]+/versions/[^/]+"
        endpoint = r"onlineEndpoints/[^/]+"
        one = rf"(?:computes|jobs)/[^/]+|{endpoint}(?:/deployments/[^/]+)?|{version}"
        many = rf"computes|jobs|models|onlineEndpoints|{endpoint}/deployments|{VERSIONED}/[^/]+/versions"
        store = f"{WS}/datastores/(?P<name>workspaceblobstore|workspaceartifactstore)"
        return [
            ("GET", f"{LOGIN}/common/discovery/instance", self._clouds),
            ("GET", rf"{LOGIN}/(?P<tenant>[^/]+)/v2\.0/\.well-known/openid-configuration", self._tenant),
            ("POST", rf"{LOGIN}/[^/]+/oauth2/v2\.0/token", self._token),
            ("GET", rf"{API}/registrymanagement/v1\.0/registries/azureml/discovery", self._registry),
            ("GET", rf"{REGISTRY}/(?P<kind>models|components)/(?P<name>[^/]+)/versions", self._registry_versions),
            (
                "GET",
                rf"{REGISTRY}/(?P<kind>models|components)/(?P<name>[^/]+)/versions/(?P<version>[^/]+)",
                self._registry_version,
            ),
            ("GET", f"{API}/discovery", lambda call: {"api": f"https://{API}", "history": f"https://{API}"}),
            ("GET", WS, self._workspace),
            ("GET", f"{WS}/datastores", lambda call: {"value": [self._datastore(call, "workspaceblobstore")]}),
            ("GET", store, self._datastore),
            ("POST", f"{store}/listSecrets", self._secrets),
            ("GET", f"{LOCATION}/vmSizes", lambda call: {"value": self.sizes}),
            ("GET", f"{LOCATION}/usages", lambda call: {"value": self.usages}),
            ("GET", f"{WS}/operations/(?P<name>[^/]+)", self._operation),
            ("PUT", f"{WS}/(?P<path>{one})", self._put),
            ("GET", f"{WS}/(?P<path>{one})", self._get),
            ("GET", f"{WS}/(?P<path>{many})", self._list),
            ("DELETE", f"{WS}/(?P<path>{endpoint}(?:/deployments/[^/]+)?)", self._delete),
            ("POST", f"{WS}/jobs/(?P<name>[^/]+)/cancel", self._cancel),
            ("POST", f"{WS}/(?P<path>{endpoint})/listKeys", self._keys),
            ("POST", f"{WS}/(?P<path>{endpoint})/regenerateKeys", self._regenerate),
            ("POST", f"{WS}/{endpoint}/deployments/[^/]+/getLogs", lambda call: {"content": "model loaded\nready"}),
            ("POST", f"{WS}/codes/(?P<name>[^/]+)/versions/[^/]+/startPendingUpload", self._code_upload),
            ("GET", rf"{HISTORY}/runs/(?P<name>[^/]+)/details", self._details),
            ("GET", rf"{HISTORY}/runs/(?P<name>[^/]+)/children", self._children),
            ("POST", f"{HISTORY}/rundata", self._run_data),
            ("POST", rf"{API}/modelregistry/v1\.0{ARM}/models/batchGetResolvedUris", self._where),
            ("POST", rf"{API}/data/v1\.0{ARM}/dataversion/batchGetResolvedUris", self._where),
            ("GET", r"(?P<box>[^./]+\.blob\.core\.windows\.net/[^/]+)", self._blob_list),
            ("GET", r"(?P<blob>[^./]+\.blob\.core\.windows\.net/.+)", self._blob_get),
            ("HEAD", r"(?P<blob>[^./]+\.blob\.core\.windows\.net/.+)", self._blob_head),
            ("PUT", r"(?P<blob>[^./]+\.blob\.core\.windows\.net/.+)", self._blob_put),
            ("POST", rf"(?P<name>[^.]+)\.{REGION}\.inference\.ml\.azure\.com/score", self._score),
        ]

    def keep_compute(self, name: str, size: str, state: str = "Succeeded") -> None:
        """Have a cluster that somebody made before."""
        properties = {"computeType": "AmlCompute", "provisioningState": state, "properties": {"vmSize": size}}
        self.kept[f"computes/{name}".lower()] = _resource(f"computes/{name}", properties) | {"location": REGION}

    def keep_model(self, name: str, version: str, job: str) -> None:
        """Have a model version that a job made before."""
        properties = registry_model(jobName=job, modelUri=f"azureml://jobs/{job}/outputs/trained_model")
        path = f"models/{name}/versions/{version}"
        self.kept[path.lower()] = _resource(path, properties)

    def keep_data(self, name: str, version: str) -> None:
        """Have a data asset that somebody made before."""
        path = f"data/{name}/versions/{version}"
        uri = "azureml://datastores/workspaceblobstore/paths/chats.jsonl"
        self.kept[path] = _resource(path, {"dataType": "uri_file", "dataUri": uri, "isAnonymous": False})

    # --- sign-in

    def _clouds(self, call: Call) -> Any:
        names = ["login.microsoftonline.com", "login.windows.net"]
        cloud = {"preferred_network": names[0], "preferred_cache": names[1], "aliases": names}
        return {"tenant_discovery_endpoint": f"https://{names[0]}/{TENANT}/v2.0", "metadata": [cloud]}

    def _tenant(self, call: Call, tenant: str) -> Any:
        base = f"https://login.microsoftonline.com/{tenant}"
        ways = {f"{way}_endpoint": f"{base}/oauth2/v2.0/{way}" for way in ("token", "authorize")}
        ways["authorization_endpoint"] = ways.pop("authorize_endpoint")
        return ways | {"device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode", "issuer": f"{base}/v2.0"}

    def _token(self, call: Call) -> Any:
        scope = dict(parse_qsl(call.body.decode()))["scope"].split()[0]
        claims = {
            "aud": scope.removesuffix("/.default"),
            "tid": TENANT,
            "oid": "tester",
            "exp": int(time.time()) + 3600,
        }
        parts = ({"alg": "none", "typ": "JWT"}, claims)
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
        token = ".".join([*encoded, "unsigned"])
        return {"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600, "access_token": token}

    # --- the registry

    def _registry(self, call: Call) -> Any:
        where = {"primaryRegionResourceProviderUri": f"https://{API}/", "primaryRegion": REGION, "regions": [REGION]}
        return where | {"registryName": "azureml", "subscriptionId": "registry", "resourceGroup": "registry"}

    def _registry_versions(self, call: Call, kind: str, name: str) -> Any:
        versions = getattr(self, kind).get(name, {})
        if not versions:
            return refusal(404, "NotFound", f"no {kind} are called {name}")
        return {"value": [_asset(kind, name, version, versions[version]) for version in reversed(versions)]}

    def _registry_version(self, call: Call, kind: str, name: str, version: str) -> Any:
        properties = getattr(self, kind).get(name, {}).get(version)
        if properties is None:
            return refusal(404, "NotFound", f"{name} has no version {version}")
        return _asset(kind, name, version, properties)

    # --- the workspace

    def _workspace(self, call: Call) -> Any:
        properties = {
            "friendlyName": WORKSPACE,
            "workspaceId": "w",
            "discoveryUrl": f"https://{API}/discovery",
            "mlFlowTrackingUri": f"azureml://{API}/mlflow/v1.0{ARM}",
            "provisioningState": "Succeeded",
            "storageAccount": "/x/storageAccounts/store",
        }
        return {"id": ARM, "name": WORKSPACE, "type": f"{PROVIDER}/workspaces", "location": REGION} | {
            "identity": {"type": "SystemAssigned", "principalId": "p", "tenantId": TENANT},
            "properties": properties,
        }

    def _datastore(self, call: Call, name: str) -> Any:
        properties = {
            "datastoreType": "AzureBlob",
            "accountName": "store",
            "containerName": "box",
            "endpoint": "core.windows.net",
            "protocol": "https",
            "isDefault": True,
            "credentials": {"credentialsType": "Sas"},
        }
        return _resource(f"datastores/{name}", properties)

    def _secrets(self, call: Call, name: str) -> Any:
        return {"secretsType": "Sas", "sasToken": "sv=2024-01-01&sig=fake&se=2099-01-01"}

    def _put(self, call: Call, path: str) -> Answer:
        kind = path.split("/")[-2]
        properties = dict(call.json.get("properties") or {})
        if kind == "jobs":
            properties |= {"status": "NotStarted", "services": _services(path.split("/")[-1])}
            properties.setdefault("outputs", {}).setdefault("figures", {"jobOutputType": "uri_folder"})
        if kind == "computes":
            grown = {"allocationState": "Steady", "currentNodeCount": 0}
            properties |= {"properties": dict(properties.get("properties") or {}) | grown}
        if kind == "onlineEndpoints":
            properties |= {"scoringUri": f"https://{path.split('/')[-1]}.{REGION}.inference.ml.azure.com/score"}
            properties.setdefault("properties", {})
        if path.startswith("models/"):
            properties |= {"flavors": {}, "jobName": properties["modelUri"].split("/jobs/")[-1].split("/")[0]}
        if kind == "deployments":
            properties.setdefault("scaleSettings", {"scaleType": "Default"})
        lasting = kind in ("computes", "onlineEndpoints", "deployments")
        properties["provisioningState"] = "Creating" if lasting else "Succeeded"
        kept = {key: value for key, value in call.json.items() if key != "properties"} | _resource(path, properties)
        self.kept[path.lower()] = kept
        return Answer(201, kept, self._start(kind, path) if lasting else {})

    def _start(self, kind: str, path: str) -> dict[str, str]:
        """Begin a long operation; it is over at the second question."""
        name = uuid.uuid4().hex
        self.operations[name] = [1, kind, path.lower()]
        return {"Azure-AsyncOperation": f"https://management.azure.com{ARM}/operations/{name}", "Retry-After": "1"}

    def _operation(self, call: Call, name: str) -> Any:
        turns, kind, path = self.operations[name]
        self.operations[name][0] -= 1
        if turns:
            return {"status": "InProgress"}
        if kind in self.broken:
            code, message = self.broken[kind]
            self.kept[path]["properties"]["provisioningState"] = "Failed"
            return {"status": "Failed", "error": {"code": code, "message": message}}
        if path in self.kept:
            self.kept[path]["properties"]["provisioningState"] = "Succeeded"
        return {"status": "Succeeded"}

    def _get(self, call: Call, path: str) -> Any:
        if path.lower() not in self.kept:
            return refusal(404, "ResourceNotFound", f"{path} does not exist")
        if path.startswith("jobs/"):
            if self.on_question is not None:
                self.on_question()
            self._advance(path.split("/")[-1])
        return self.kept[path.lower()]

    def _list(self, call: Call, path: str) -> Any:
        below = path.lower() + "/"
        found = [
            kept for key, kept in self.kept.items() if key.startswith(below) and "/" not in key.removeprefix(below)
        ]
        if "hash" in call.query:  # code by what it holds, whatever its name
            found = [
                kept
                for kept in self.kept.values()
                if call.query["hash"] in kept["properties"].get("properties", {}).values()
            ]
        if path == "models":  # containers
            names = {key.split("/")[1] for key in self.kept if key.startswith("models/")}
            found = [_resource(f"models/{name}", {"latestVersion": "1"}) for name in sorted(names)]
        return {"value": found[::-1]}

    def _delete(self, call: Call, path: str) -> Answer:
        if path.lower() not in self.kept:
            return Answer(204)
        for key in [key for key in self.kept if key == path.lower() or key.startswith(f"{path.lower()}/")]:
            del self.kept[key]
        return Answer(202, None, self._start("deleting", path))

    def _keys(self, call: Call, path: str) -> Any:
        return self.kept[path.lower()].get("keys") or {"primaryKey": "key-1", "secondaryKey": "key-2"}

    def _regenerate(self, call: Call, path: str) -> Answer:
        which = f"{call.json['keyType'].lower()}Key"
        self.kept[path.lower()]["keys"] = self._keys(call, path) | {which: "key-3"}
        return Answer(200)

    # --- jobs

    def _advance(self, name: str) -> str:
        """Let a job get on by one question, and return its status."""
        job = self.kept[f"jobs/{name}".lower()]
        questions = job["questions"] = job.get("questions", 0) + 1
        status = job["properties"]["status"]
        if status not in ("Completed", "Failed", "Canceled"):
            status = job["properties"]["status"] = self.job_ends if questions > self.job_polls else "Running"
        return str(status)

    def _cancel(self, call: Call, name: str) -> Answer:
        self.kept[f"jobs/{name}".lower()]["properties"]["status"] = "Canceled"
        return Answer(200)

    def _details(self, call: Call, name: str) -> Any:
        details = {"runId": name, "status": self._advance(name), "logFiles": {}, "properties": {}}
        if details["status"] == "Failed":
            details["error"] = {"error": {"code": "UserError", "message": "CUDA out of memory", "details": []}}
        return details

    def _children(self, call: Call, name: str) -> Any:
        status = self.kept[f"jobs/{name}".lower()]["properties"]["status"]
        done = {"Completed": len(STEPS), "Failed": 1}.get(status, 1)
        runs = []
        for number, step in enumerate(STEPS):
            state = "Completed" if number < done else "Failed" if status == "Failed" and number == done else "Running"
            runs.append({"runId": f"{name}-{number}", "displayName": step, "status": state, "properties": {}})
        return {"value": runs if status != "Failed" else runs[:2]}

    def _run_data(self, call: Call) -> Any:
        name = call.json["runId"]
        kinds = {"trained_model": "MLFlowModel", "figures": "UriFolder"}
        outputs = {output: {"assetId": f"asset/{name}/{output}", "type": kind} for output, kind in kinds.items()}
        return {"runMetadata": {"runId": name, "outputs": outputs, "properties": {}}}

    def _where(self, call: Call) -> Any:
        home = ARM.replace(f"/providers/{PROVIDER}", "").strip("/")
        paths = {one: f"azureml://{home}/datastores/workspaceblobstore/paths/{one}" for one in call.json["values"]}
        return {"values": {one: {"path": path, "uri": path, "type": "any"} for one, path in paths.items()}}

    # --- blobs

    def keep_blob(self, path: str, content: bytes) -> None:
        """Have a file that a job wrote."""
        self.blobs[f"store.blob.core.windows.net/box/{path}"] = (content, {})

    def _blob_list(self, call: Call, box: str) -> Answer:
        names = [blob.removeprefix(f"{box}/") for blob in self.blobs if blob.startswith(f"{box}/")]
        found = "".join(
            f"<Blob><Name>{name}</Name><Properties><BlobType>BlockBlob</BlobType></Properties></Blob>"
            for name in sorted(names)
            if name.startswith(call.query.get("prefix", ""))
        )
        text = f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{found}</Blobs></EnumerationResults>'
        return Answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _blob_get(self, call: Call, blob: str) -> Answer:
        if blob not in self.blobs:
            return Answer(404, None, {"x-ms-error-code": "BlobNotFound"})
        content = self.blobs[blob][0]
        about = {"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}", "x-ms-blob-type": "BlockBlob"}
        return Answer(206, content, self._blob_headers(blob) | about)

    def _code_upload(self, call: Call, name: str) -> Any:
        address = f"https://store.blob.core.windows.net/code-{name}"
        credential = {"credentialType": "SAS", "sasUri": f"{address}?sv=2024-01-01&sig=fake"}
        blob = {"blobUri": address, "storageAccountArmId": "x", "credential": credential}
        return {"pendingUploadId": "p", "pendingUploadType": "TemporaryBlobReference"} | {
            "blobReferenceForConsumption": blob
        }

    def _blob_head(self, call: Call, blob: str) -> Answer:
        if blob not in self.blobs:
            return Answer(404, None, {"x-ms-error-code": "BlobNotFound"})
        length = str(len(self.blobs[blob][0]))
        return Answer(200, None, self._blob_headers(blob) | {"Content-Length": length, "x-ms-blob-type": "BlockBlob"})

    def _blob_put(self, call: Call, blob: str) -> Answer:
        if call.query.get("comp") == "metadata":
            prefix = "x-ms-meta-"
            about = {name.removeprefix(prefix): text for name, text in call.headers.items() if name.startswith(prefix)}
            self.blobs[blob] = (self.blobs[blob][0], about)
            return Answer(200, None, self._blob_headers(blob))
        if "comp" in call.query:
            return refusal(501, "NotFaked", "only whole blobs")
        self.blobs[blob] = (call.body, {})
        return Answer(201, None, self._blob_headers(blob))

    def _blob_headers(self, blob: str) -> dict[str, str]:
        about = {f"x-ms-meta-{name}": text for name, text in self.blobs[blob][1].items()}
        return {"ETag": '"0x1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"} | about

    # --- scoring

    def _score(self, call: Call, name: str) -> Any:
        keys = self._keys(call, f"onlineEndpoints/{name}")
        if call.headers.get("authorization") not in {f"Bearer {key}" for key in keys.values()}:
            return refusal(401, "Unauthorized", "the key does not fit")
        return self.replies.pop(0) if self.replies else {"output": f"from {call.headers['azureml-model-deployment']}"}


def _asset(kind: str, name: str, version: str, properties: Any) -> Any:
    found = _resource(f"{kind}/{name}/versions/{version}", properties)
    return found | {"id": f"azureml://registries/azureml/{kind}/{name}/versions/{version}"}


def _resource(path: str, properties: Any) -> dict[str, Any]:
    made = {"createdAt": MOMENT, "createdBy": "tester", "createdByType": "User", "lastModifiedAt": MOMENT}
    kind = f"{PROVIDER}/workspaces/" + "/".join(path.split("/")[::2])
    return {"id": f"{ARM}/{path}", "name": path.split("/")[-1], "type": kind, "systemData": made} | {
        "properties": properties
    }


def _services(job: str) -> dict[str, Any]:
    studio = {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{job}"}
    return {"Studio": studio, "Tracking": {"jobServiceType": "Tracking", "endpoint": f"azureml://{API}"}}
