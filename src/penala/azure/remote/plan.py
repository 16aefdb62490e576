"""What a recipe will run on Azure."""

from dataclasses import dataclass, field
from typing import Any

from penala.azure.remote.base_model import BaseModel, Components
from penala.azure.remote.connection import Connection
from penala.azure.remote.offline import Here
from penala.recipe import AzureCompute


@dataclass(slots=True)
class RemotePlan:
    """What will run: `literals` are the pipeline's inputs but for data and model, `component` what takes them."""

    connection: Connection
    components: Components
    component: Any  # of the SDK; None: penala's own, which are made when they are sent
    model: BaseModel
    literals: dict[str, Any]
    here: Here
    compute: AzureCompute
    new_compute: bool
    notes: list[str] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)
