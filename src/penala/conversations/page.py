"""Pages for people: one HTML file each that needs nothing else, no other file, no script, no network.

Texts of users' data are escaped by jinja2, and their hidden characters spelled out. pages/base.html.j2 is the frame.
"""

from typing import Any

import jinja2
from markupsafe import Markup

from penala.conversations.visible import visible

HERE = "penala.conversations"


def page(name: str, *, room: str = HERE, **values: Any) -> str:
    """Render pages/NAME of a room (a package such as "penala.tokens"); it may extend base.html.j2.

    Text that UTF-8 cannot hold (a file name may be of another encoding) comes out escaped.
    """
    loaders = [jinja2.PackageLoader(package, "pages") for package in dict.fromkeys((room, HERE))]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["share"] = share
    environment.filters["breakable"] = _breakable
    return environment.get_template(name).render(values)


def share(part: float, whole: float) -> str:
    """Return a part of a whole in per cent; of nothing, nothing."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    return "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %" if 0 < percent < 100 else f"{percent:.0f} %"


def _breakable(path: str) -> Markup:
    """Let a line break after each slash of a path."""
    return Markup("/<wbr>").join(visible(path).split("/"))


def _finalize(value: Any) -> Any:
    return visible(value) if type(value) is str else value  # Markup is our own
