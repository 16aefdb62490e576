"""How an endpoint's requests are split over its deployments."""

from collections.abc import Collection, Mapping

from penala.errors import EndpointError, near


def check_traffic(traffic: Mapping[str, int], deployments: Collection[str]) -> dict[str, int]:
    """Return the split without its zeros. Raises EndpointError unless it names deployments and adds up to 0 or 100."""
    for name, percent in traffic.items():
        if name not in deployments:
            fix = near(name, deployments) or f"there are {', '.join(sorted(deployments)) or 'none yet'}"
            raise EndpointError(f"traffic goes to a deployment '{name}' that is not there", fix=fix)
        if isinstance(percent, bool) or not isinstance(percent, int) or percent < 0:
            raise EndpointError(f"traffic of '{name}' is {percent}", fix="give whole per cents")
    total = sum(traffic.values())
    if total not in (0, 100):
        shares = ", ".join(f"{name}={percent}" for name, percent in traffic.items())
        raise EndpointError(f"{shares} adds up to {total}", fix="traffic must add up to 100, or to 0 for none")
    return {name: percent for name, percent in traffic.items() if percent > 0}


def choose(traffic: Mapping[str, int], draw: float) -> str | None:
    """Return the deployment at `draw`, in [0, 1), of the split; None when no deployment has traffic."""
    place = draw * sum(traffic.values())
    for name, percent in traffic.items():
        if place < percent:
            return name
        place -= percent
    return None
