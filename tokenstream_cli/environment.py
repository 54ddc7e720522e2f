"""Variables of the environment that nobody reads, and that were probably meant for somebody.

pydantic-settings looks up the names it knows and never sees the others, so that a misspelt one
would silently do nothing.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable
from typing import Literal

from gateway_sse.config import GatewaySettings
from service.config import ServiceSettings

_PREFIX = "TOKENSTREAM_"
_GATEWAYS = "TOKENSTREAM_GATEWAY_"

# The file of settings; generate's server; which build of vLLM scripts/setup installs.
_OTHERS = (
    "TOKENSTREAM_CONFIG",
    "TOKENSTREAM_SERVER",
    "TOKENSTREAM_API_KEY",
    "TOKENSTREAM_BUILD",
)

# What Kubernetes gives every container for a service that is named `tokenstream` or
# `tokenstream-…`: https://kubernetes.io/docs/concepts/services-networking/service/
_KUBERNETES = re.compile(
    r"TOKENSTREAM_(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

Command = Literal["serve", "gateway"]


def warn_of_unknown_variables(command: Command) -> None:
    """Name on standard error each variable that does nothing, and the one it may be meant to be.

    `gateway` names those that are its own, by prefix or by likeness, and `serve` the rest, so that
    with both in one environment each is named once.
    """
    for name, meant in _unknown(os.environ):
        owner = "gateway" if (meant or name).startswith(_GATEWAYS) else "serve"
        if owner == command:
            hint = f"; did you mean {meant}?" if meant else ""
            print(
                f"tokenstream {command}: warning: nothing reads the variable {name}{hint}",
                file=sys.stderr,
            )


def _unknown(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each unknown name, with the nearest known one or nothing."""
    known = {
        *_OTHERS,
        *(f"{_PREFIX}{field.upper()}" for field in ServiceSettings.model_fields),
        *(f"{_GATEWAYS}{field.upper()}" for field in GatewaySettings.model_fields),
    }
    # Case does not matter to pydantic-settings either.
    unknown = {
        name: name.upper()
        for name in names
        if name.upper().startswith(_PREFIX)
        and name.upper() not in known
        and not _KUBERNETES.fullmatch(name.upper())
    }
    return [(name, _nearest(upper, known)) for name, upper in sorted(unknown.items())]


def _nearest(name: str, known: Iterable[str]) -> str:
    # Compared without what they have in common, or every name would look like every other.
    prefix = _GATEWAYS if name.startswith(_GATEWAYS) else _PREFIX
    rests = {o.removeprefix(prefix): o for o in sorted(known) if o.startswith(prefix)}
    near = difflib.get_close_matches(name.removeprefix(prefix), rests, n=1)
    return rests[near[0]] if near else ""
